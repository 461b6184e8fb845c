//! Tasks as a command's answer shows them.

use std::{borrow::Cow, fmt::Write as _};

use super::{BarePayload, Incoming, json, with_members};

/// A message as the answer to a command shows it.
///
/// ```
/// use dispatch_core::tasks::Shown;
///
/// let shown = Shown::of(br#"{"task": "app.add"}"#, "7", Some("jobs"));
/// assert_eq!((&*shown.task, &*shown.uuid), ("app.add", "7"));
/// assert_eq!(shown.text, r#"{"task": "app.add", "uuid": "7", "channel": "jobs"}"#);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The task's name; empty where the message is no task.
    pub task: String,
    /// Its own id, else the message's.
    pub uuid: String,
    /// A JSON object: the task as it came, with its `uuid` and its `channel`.
    pub text: String,
}

impl Shown {
    /// Reads a message's payload; `id` is the message's, `channel` where it came from, if the task itself does not say.
    #[must_use]
    pub fn of(payload: &[u8], id: &str, channel: Option<&str>) -> Self {
        let text = String::from_utf8_lossy(payload);
        let (task, uuid, text) = match Incoming::read(&text, BarePayload::Task) {
            Incoming::Task(task) => (task.task, task.uuid, task.text),
            _ if matches!(json::members(&text), Ok(Some(_))) => (Cow::Borrowed(""), None, Cow::Borrowed(&*text)),
            _ => (Cow::Borrowed(""), None, Cow::Borrowed("{}")),
        };
        let mut more = Vec::new();
        if uuid.is_none() {
            more.push(("uuid", id));
        }
        let members = json::members(&text).ok().flatten().unwrap_or_default();
        more.extend(
            channel
                .filter(|_| !members.iter().any(|(key, _)| key == "channel"))
                .map(|channel| ("channel", channel)),
        );
        Self {
            task: task.into_owned(),
            uuid: uuid.unwrap_or(Cow::Borrowed(id)).into_owned(),
            text: if more.is_empty() {
                text.into_owned()
            } else {
                with_members(&text, &more)
            },
        }
    }
}

/// Tasks that no worker has, by what they wait for; each a JSON object. What a component answers to `waiting`, `withdraw`,
/// `held` and `drop_held`, as [text](Self::text).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// For their turn.
    pub queued: Vec<String>,
    /// For another of their key.
    pub blocked: Vec<String>,
    /// For their time.
    pub delayed: Vec<String>,
    /// Handed to the sink, which may know more of them.
    pub out: Vec<String>,
    /// Why these are not all.
    pub error: Option<String>,
}

/// How much of what waits an answer shows: it goes through a channel of notifications, and others wait for theirs meanwhile.
#[derive(Debug, Clone, Copy, Default)]
pub struct Space {
    tasks: usize,
    bytes: usize,
}

impl Space {
    /// No answer shows more tasks that wait in one place.
    pub const TASKS: usize = 5_000;
    /// Nor more bytes of them.
    pub const BYTES: usize = 1 << 20;

    /// Takes the room for one task; false where there is none.
    pub fn take(&mut self, text: &str) -> bool {
        if self.is_full() {
            return false;
        }
        self.tasks += 1;
        self.bytes += text.len();
        true
    }

    /// Whether no task has room any more.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.tasks >= Self::TASKS || self.bytes >= Self::BYTES
    }

    /// How many have taken room.
    #[must_use]
    pub const fn tasks(&self) -> usize {
        self.tasks
    }
}

impl Listed {
    /// As JSON.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = "{".to_owned();
        for (name, tasks) in [
            ("queued", &self.queued),
            ("blocked", &self.blocked),
            ("delayed", &self.delayed),
            ("out", &self.out),
        ] {
            let _infallible = write!(text, "\"{name}\": {{");
            for (number, task) in tasks.iter().enumerate() {
                let comma = if number == 0 { "" } else { ", " };
                let _infallible = write!(text, "{comma}\"{number}\": {task}");
            }
            text.push_str("}, ");
        }
        let error = self.error.as_deref().map_or(serde_json::Value::Null, Into::into);
        let _infallible = write!(text, "\"error\": {error}}}");
        text
    }

    /// Adds what another answer holds.
    pub fn add(&mut self, answer: &str) {
        for (key, raw) in json::members(answer).ok().flatten().unwrap_or_default() {
            let own = match &*key {
                "queued" => &mut self.queued,
                "blocked" => &mut self.blocked,
                "delayed" => &mut self.delayed,
                "out" => &mut self.out,
                "error" => {
                    if let Some(error) = json::string(raw) {
                        let before = self.error.take().map(|before| before + "; ").unwrap_or_default();
                        self.error = Some(before + &error);
                    }
                    continue;
                }
                _ => continue,
            };
            let tasks = json::members(raw).ok().flatten().unwrap_or_default();
            own.extend(tasks.into_iter().map(|(_, task)| task.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_in_a_queue_can_be_shown() {
        for (payload, task, uuid, text) in [
            (
                &br#"{"task": "a.b", "args": [NaN], "uuid": "u", "channel": "c"}"#[..],
                "a.b",
                "u",
                r#"{"task": "a.b", "args": [NaN], "uuid": "u", "channel": "c"}"#,
            ),
            (b"a.b", "a.b", "id", r#"{"task": "a.b", "uuid": "id", "channel": "q"}"#),
            (b"[1, 2]", "", "id", r#"{"uuid": "id", "channel": "q"}"#),
            (
                br#"{"control": "alive"}"#,
                "",
                "id",
                r#"{"control": "alive", "uuid": "id", "channel": "q"}"#,
            ),
        ] {
            let shown = Shown::of(payload, "id", Some("q"));

            assert_eq!((&*shown.task, &*shown.uuid, &*shown.text), (task, uuid, text));
        }
        assert_eq!(
            Shown::of(br#"{"task": "a"}"#, "id", None).text,
            r#"{"task": "a", "uuid": "id"}"#
        );
    }

    #[test]
    fn what_is_listed_can_be_read_again() {
        let one = Listed {
            queued: vec![r#"{"task": "a", "n": NaN}"#.to_owned(), "{}".to_owned()],
            delayed: vec![r#"{"x": "\ud800"}"#.to_owned()],
            out: vec!["{}".to_owned()],
            error: Some("no \"store\"".to_owned()),
            ..Listed::default()
        };
        let mut read = Listed::default();

        read.add(&one.text());

        assert_eq!(read, one);
        read.add(&one.text());
        read.add("no answer");
        assert_eq!((read.queued.len(), read.out.len()), (4, 2));
        assert_eq!(read.error.as_deref(), Some("no \"store\"; no \"store\""));
    }
}
