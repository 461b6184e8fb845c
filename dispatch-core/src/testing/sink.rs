//! The battery that every Sink passes.
//!
//! ```
//! use dispatch_core::testing::{MemorySink, sink::sink_battery};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() {
//!     let sink = MemorySink::new();
//!     sink_battery(&sink, async |id| sink.messages().iter().any(|message| message.id() == id)).await;
//! }
//! ```

use std::time::Duration;

use tokio::time::timeout;

use crate::{Message, Sink};

/// How long a statement waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs every statement against a sink whose far side takes everything; `arrived` says whether the message with this
/// id is there, or, where the far side knows no ids, whether any new one is.
///
/// # Panics
/// At the first statement that does not hold, with a sentence that says which.
pub async fn sink_battery(sink: &dyn Sink, arrived: impl AsyncFn(&str) -> bool) {
    timeout(PATIENCE, sink.probe())
        .await
        .expect("a probe ends")
        .expect("a sink that works answers its probe");

    let message = Message::new(r#"{"battery":"one"}"#).header("content-type", "application/json");
    let id = message.id().clone();
    timeout(PATIENCE, sink.send(message))
        .await
        .expect("a send ends")
        .expect("a good message is taken");
    assert!(
        arrived(&id).await,
        "a message that was taken has arrived by the time send returns"
    );

    let batch: Vec<_> = (0..10).map(|n| Message::new(format!("{{\"battery\":{n}}}"))).collect();
    let ids: Vec<_> = batch.iter().map(|message| message.id().clone()).collect();
    let results = timeout(PATIENCE, sink.send_batch(batch)).await.expect("a batch ends");
    assert_eq!(results.len(), ids.len(), "each message of a batch has its answer");
    for (result, id) in results.into_iter().zip(&ids) {
        result.expect("each good message of a batch is taken");
        assert!(arrived(id).await, "each message of a batch has arrived");
    }
    assert!(
        sink.send_batch(Vec::new()).await.is_empty(),
        "an empty batch has no answers"
    );

    for payload in [&b""[..], b"\0\xff\xfe", &[b'x'; 70_000]] {
        let message = Message::new(payload);
        // Taken or refused, but answered, whatever the bytes.
        drop(
            timeout(PATIENCE, sink.send(message))
                .await
                .expect("any payload is answered"),
        );
    }

    // Dropping a call midway leaves the sink fit for the next one.
    drop(futures::poll!(Box::pin(sink.send(Message::new("dropped")))));
    let message = Message::new("after a dropped call");
    timeout(PATIENCE, sink.send(message))
        .await
        .expect("a send ends")
        .expect("a sink works after a dropped call");

    timeout(PATIENCE, sink.close())
        .await
        .expect("close ends")
        .expect("close works");
}
