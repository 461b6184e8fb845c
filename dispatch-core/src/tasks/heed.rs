//! What a task asks of the queue that it is put into.

use std::time::SystemTime;

use smol_str::SmolStr;

use super::{BarePayload, Incoming, OnDuplicate, json, likeness};
use crate::{Error, store::Item};

/// Heeds what the task in `item` asks for itself, in the store's terms: `delay` is when it may be claimed, `on_duplicate`
/// its key and what it may not lie beside. It is what `dispatch_enqueue` makes of the same task, so that one published from
/// Python, one published from Rust and one that a schedule fires are each other's like.
///
/// ```
/// use dispatch_core::{Message, store::Item, tasks::heed};
///
/// let mut item = Item::of(&Message::new(r#"{"task": "app.sweep", "on_duplicate": "discard"}"#));
/// heed(&mut item)?;
/// assert!(item.alone && item.key.is_some());
/// # Ok::<_, dispatch_core::Error>(())
/// ```
///
/// # Errors
/// `Permanent`, with the code `no_task`: the payload is no task, or one that asks for what cannot be.
pub fn heed(item: &mut Item) -> Result<(), Error> {
    let refused = |why: String| Error::permanent(format!("the message is no task: {why}")).with_code("no_task");
    let payload = item.payload.clone();
    let text = str::from_utf8(&payload).map_err(|error| refused(error.to_string()))?;
    let task = match Incoming::read(text, BarePayload::Reject) {
        Incoming::Task(task) => task,
        Incoming::Rejected(why) => return Err(refused(why.0)),
        Incoming::Control(_) | Incoming::Chunk(_) | Incoming::SelfCheck(_) => {
            return Err(refused("it is for a listener itself".to_owned()));
        }
    };
    if let Some(delay) = task.delay {
        item.run_at = SystemTime::now().checked_add(delay);
    }
    if task.on_duplicate != OnDuplicate::Parallel {
        let identity = identity(text).map_err(|error| refused(error.to_string()))?;
        item.dedupe = (task.on_duplicate == OnDuplicate::QueueOne).then(|| identity.clone());
        item.alone = task.on_duplicate == OnDuplicate::Discard;
        item.key = Some(identity);
    }
    Ok(())
}

/// The key under which [`heed`] puts a task that is not `parallel`: the same for all that are each other's like. `message` is
/// the text of a task.
///
/// # Errors
/// The text is no JSON.
pub fn identity(message: &str) -> Result<SmolStr, json::Malformed> {
    let digest = ring::digest::digest(&ring::digest::SHA256, likeness(message)?.as_bytes());
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}
