//! A task and its arguments, as dispatcherd writes them.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use dispatch_core::{
    Message,
    tasks::{is_empty, json},
};
use serde::de::{DeserializeOwned, Error as _};
use serde_json::{Deserializer, Error, Map, Value, json};

use super::{Options, Task};

/// What stands in a message. Nothing but its names is read yet, so what other languages write there disturbs nobody.
#[derive(Debug)]
pub(super) struct Incoming<'m> {
    pub(super) task: Cow<'m, [u8]>,
    arguments: Arguments<'m>,
    /// How long it may run.
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug)]
enum Arguments<'m> {
    None,
    /// In order or by name. More of the message may stand behind them.
    Some(&'m [u8]),
    Both,
}

impl<'m> Incoming<'m> {
    pub(super) fn of(message: &'m Message) -> Result<Self, Error> {
        // Usually the source has read it all before.
        let known = message.outline().and_then(|outline| {
            Some(Self {
                task: outline.name(&message.payload)?.into(),
                arguments: outline
                    .arguments(&message.payload)
                    .map_or(Arguments::None, Arguments::Some),
                // Where there is a limit, there is no outline.
                timeout: None,
            })
        });
        known.map_or_else(|| Self::read(&message.payload), Ok)
    }

    fn read(payload: &'m [u8]) -> Result<Self, Error> {
        let text = str::from_utf8(payload).map_err(Error::custom)?;
        let (mut task, mut args, mut kwargs, mut timeout) = (None, None, None, None);
        let note = |key: Cow<'_, str>, raw: &'m str| match &*key {
            "task" => task = Some(raw),
            "args" => args = Some(raw),
            "kwargs" => kwargs = Some(raw),
            "timeout" => timeout = Some(raw),
            _ => {}
        };
        if !json::each_member(text, note).map_err(Error::custom)? {
            return Err(Error::custom("JSON, but not an object"));
        }
        let task = task.ok_or_else(|| Error::missing_field("task"))?;
        let task = match json::string(task).ok_or_else(|| Error::custom("`task` is not a text"))? {
            Cow::Borrowed(task) => task.as_bytes().into(),
            Cow::Owned(task) => task.into_bytes().into(),
        };
        let given = |raw: &&str| !is_empty(raw);
        Ok(Self {
            task,
            arguments: match (args.filter(given), kwargs.filter(given)) {
                (None, None) => Arguments::None,
                (Some(one), None) | (None, Some(one)) => Arguments::Some(one.as_bytes()),
                (Some(_), Some(_)) => Arguments::Both,
            },
            timeout: timeout.and_then(limit),
        })
    }

    /// The task itself, from its named arguments, or from those in order.
    pub(super) fn arguments<T: DeserializeOwned>(&self) -> Result<T, Error> {
        match self.arguments {
            Arguments::Some(text) => T::deserialize(&mut Deserializer::from_slice(text)),
            // A task without fields, of whatever kind of type.
            Arguments::None => {
                serde_json::from_str("{}").or_else(|first| serde_json::from_str("null").map_err(|_| first))
            }
            Arguments::Both => Err(Error::custom(
                "arguments both in order and by name: give a task of a Rust type one of them",
            )),
        }
    }
}

/// Seconds above 0; anything else is no limit.
fn limit(raw: &str) -> Option<Duration> {
    let seconds = raw.parse::<f64>().ok().filter(|seconds| *seconds > 0.0)?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The message of a task.
pub(super) fn message<T: Task>(task: &T, uuid: &str, options: &Options) -> Result<String, Error> {
    let mut message = Map::new();
    message.insert("task".to_owned(), T::NAME.into());
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    message.insert("time_pub".to_owned(), json!(since.as_secs_f64()));
    message.insert("uuid".to_owned(), uuid.into());
    match serde_json::to_value(task)? {
        Value::Null => {}
        Value::Object(kwargs) if kwargs.is_empty() => {}
        Value::Object(kwargs) => drop(message.insert("kwargs".to_owned(), kwargs.into())),
        Value::Array(args) => drop(message.insert("args".to_owned(), args.into())),
        single => drop(message.insert("args".to_owned(), json!([single]))),
    }
    if let Some(timeout) = options.timeout {
        message.insert("timeout".to_owned(), json!(timeout.as_secs_f64()));
    }
    if let Some(delay) = options.delay {
        message.insert("delay".to_owned(), json!(delay.as_secs_f64()));
    }
    if let Some(on_duplicate) = options.on_duplicate {
        message.insert("on_duplicate".to_owned(), json!(on_duplicate));
    }
    if options.bind {
        message.insert("bind".to_owned(), true.into());
    }
    Ok(Value::Object(message).to_string())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use dispatch_core::tasks::{BarePayload, Incoming as Read};

    use super::*;

    /// As a source hands it on: with what it has read.
    fn outlined(text: &str) -> Message {
        let Read::Task(task) = Read::read(text, BarePayload::Reject) else {
            panic!("{text}")
        };
        Message::new("").alike(None, text.to_owned(), SystemTime::UNIX_EPOCH, task.outline)
    }

    #[test]
    fn a_task_is_the_same_whether_its_source_has_read_it_or_not() {
        for (text, has_outline, expected) in [
            (
                r#"{"task": "a.b", "args": [1, "x"], "uuid": "1"}"#,
                true,
                Some((1, "x")),
            ),
            (
                r#"{"args": [1, "x"], "more": NaN, "task": "a.b"}"#,
                true,
                Some((1, "x")),
            ),
            (
                r#"{"task": "a.b", "kwargs": {}, "args":[ 1,"\u00e9" ] }"#,
                true,
                Some((1, "é")),
            ),
            (
                r#"{"task": "a.b", "args": [2], "args": [1, "x"]}"#,
                true,
                Some((1, "x")),
            ),
            (r#"{"task": "a\u002eb", "args": [1, "x"]}"#, false, Some((1, "x"))),
            (r#"{"task": "a.b", "args": [NaN, "x"]}"#, true, None),
            (r#"{"task": "a.b", "args": [1, "\ud800"]}"#, true, None),
            (r#"{"task": "a.b", "args": [1, "x", 2]}"#, true, None),
            (r#"{"task": "a.b", "args": []}"#, true, None),
            (r#"{"task": "a.b", "args": [1, "x"], "kwargs": {"y": 2}}"#, false, None),
        ] {
            let (outlined, plain) = (outlined(text), Message::new(text));
            assert_eq!(outlined.outline().is_some(), has_outline, "{text}");

            for message in [outlined, plain] {
                let incoming = Incoming::of(&message).unwrap();

                assert_eq!(&*incoming.task, b"a.b", "{text}");
                let arguments = incoming.arguments::<(u32, String)>().ok();
                assert_eq!(
                    arguments,
                    expected.map(|(number, word)| (number, word.to_owned())),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn what_names_no_task_is_none() {
        for text in ["", "[]", "{}", r#"{"task": 7}"#, r#"{"task": "a.b""#, "a.b"] {
            assert!(Incoming::of(&Message::new(text)).is_err(), "{text}");
        }
        assert!(Incoming::of(&Message::new(&b"{\"task\": \"\xff\"}"[..])).is_err());
    }
}
