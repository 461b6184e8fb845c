//! Frames: what goes to a worker and what comes back, one JSON value a line. `docs/workers.md` has the protocol.

use std::borrow::Cow;

use dispatch_core::{
    Message,
    tasks::{BarePayload, Incoming, TaskMessage, add_members, json, more_members},
};

use super::ProcessSinkError;

/// Reads what the pool itself needs of a task.
pub(super) fn task(message: &Message) -> Result<TaskMessage<'_>, ProcessSinkError> {
    let refused = |why: &str| Err(ProcessSinkError::NoTask(why.to_owned()));
    let Ok(text) = std::str::from_utf8(&message.payload) else {
        return refused("its payload is no UTF-8");
    };
    match Incoming::read(text, BarePayload::Reject) {
        Incoming::Task(task) => Ok(task),
        Incoming::Rejected(why) => Err(ProcessSinkError::NoTask(why.0)),
        Incoming::Control(_) => refused("it is a command"),
        Incoming::Chunk(_) => refused("it is a piece of a message"),
        Incoming::SelfCheck(_) => refused("it is a listener's question to itself"),
    }
}

/// Adds a task's frame. `uuid`: to be added to the object, which has none. So is the attempt, if it is not the first: to
/// dispatcherd's own workers it is one more member that they carry along.
pub(super) fn write_task(out: &mut Vec<u8>, payload: &[u8], uuid: Option<&str>, attempt: u32) {
    let payload = payload.trim_ascii();
    let from = out.len();
    out.reserve(payload.len() + 64);
    let mut more = uuid.map_or_else(String::new, |uuid| more_members(&[("uuid", uuid)]));
    if attempt > 1 {
        more.push_str(&format!(", \"attempt\": {attempt}"));
    }
    match std::str::from_utf8(payload) {
        Ok(text) if !more.is_empty() => add_members(text, &more, |part| out.extend_from_slice(part.as_bytes())),
        _ => out.extend_from_slice(payload),
    }
    end_frame(out, from);
}

/// Adds a note: an array of texts and one raw value.
pub(super) fn write_note(out: &mut Vec<u8>, kind: &str, raw: &[&str]) {
    let from = out.len();
    out.extend_from_slice(b"[\"");
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
    for part in raw {
        out.push(b',');
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b']');
    end_frame(out, from);
}

pub(super) const STOP: &[u8] = b"\"stop\"\n";

/// Line breaks stand between a JSON text's tokens only; there a space means the same.
fn end_frame(out: &mut Vec<u8>, from: usize) {
    for byte in &mut out[from..] {
        if *byte == b'\n' || *byte == b'\r' {
            *byte = b' ';
        }
    }
    out.push(b'\n');
}

/// What a worker says.
#[derive(Debug, PartialEq)]
pub(super) enum Event<'l> {
    Ready {
        prefetch: usize,
    },
    Done {
        result: &'l str,
        error: Option<TaskError>,
        stopping: bool,
    },
    Control {
        seq: &'l str,
        command: &'l str,
        data: Option<&'l str>,
    },
    Revoked {
        uuid: Cow<'l, str>,
    },
    Shutdown,
}

/// What a task raised.
#[derive(Debug, Default, PartialEq)]
pub(super) struct TaskError {
    pub(super) kind: String,
    pub(super) message: String,
    pub(super) traceback: String,
}

/// Reads one line; none if it is no event.
pub(super) fn event(line: &str) -> Option<Event<'_>> {
    let members = json::members(line).ok()??;
    let (mut name, mut uuid, mut result, mut error) = (None, None, "null", None);
    let (mut seq, mut command, mut data, mut prefetch, mut stopping) = (None, None, None, 1, false);
    for (key, raw) in &members {
        match &**key {
            "event" => name = json::string(raw),
            "uuid" => uuid = json::string(raw),
            "result" => result = raw,
            "error" => error = Some(*raw).filter(|raw| *raw != "null"),
            "seq" => seq = Some(*raw),
            "command" => command = Some(*raw),
            "control_data" => data = Some(*raw),
            "prefetch" => prefetch = raw.parse().unwrap_or(1),
            "is_stopping" => stopping = *raw == "true",
            _ => {}
        }
    }
    Some(match &*name? {
        "ready" => Event::Ready { prefetch },
        "done" => Event::Done {
            result,
            error: error.map(task_error),
            stopping,
        },
        "control" => Event::Control {
            seq: seq.unwrap_or("null"),
            command: command?,
            data,
        },
        "revoked" => Event::Revoked { uuid: uuid? },
        "shutdown" => Event::Shutdown,
        _ => return None,
    })
}

fn task_error(raw: &str) -> TaskError {
    let Ok(Some(members)) = json::members(raw) else {
        return TaskError {
            kind: "error".to_owned(),
            message: raw.to_owned(),
            traceback: String::new(),
        };
    };
    let text = |name: &str| {
        let raw = members.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw);
        raw.and_then(json::string).map(Cow::into_owned).unwrap_or_default()
    };
    TaskError {
        kind: text("class"),
        message: text("message"),
        traceback: text("traceback"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &str, uuid: Option<&str>) -> String {
        frame_of(payload, uuid, 1)
    }

    fn frame_of(payload: &str, uuid: Option<&str>, attempt: u32) -> String {
        let mut out = b"before\n".to_vec();
        write_task(&mut out, payload.as_bytes(), uuid, attempt);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_attempt_that_is_not_the_first_says_so() {
        for (payload, uuid, attempt, expected) in [
            ("{\"task\": \"a\"}", None, 1, "{\"task\": \"a\"}"),
            ("{\"task\": \"a\"}", None, 2, "{\"task\": \"a\", \"attempt\": 2}"),
            (
                "{\"task\": \"a\"}\n",
                Some("u"),
                12,
                "{\"task\": \"a\", \"uuid\": \"u\", \"attempt\": 12}",
            ),
        ] {
            let framed = frame_of(payload, uuid, attempt);
            assert_eq!(framed, format!("before\n{expected}\n"), "{payload}");
        }
    }

    #[test]
    fn a_task_is_one_line_and_otherwise_as_it_came() {
        assert_eq!(
            frame(
                "{\"task\": \"a.b\",\r\n \"args\": [NaN, \"\\n\", 12345678901234567890123]}\n",
                None
            ),
            "before\n{\"task\": \"a.b\",   \"args\": [NaN, \"\\n\", 12345678901234567890123]}\n"
        );
        assert_eq!(
            frame("{\"task\": \"a.b\",\n\"uuid\": null}", Some("m\"1")),
            "before\n{\"task\": \"a.b\", \"uuid\": null, \"uuid\": \"m\\\"1\"}\n"
        );
    }

    #[test]
    fn a_note_is_one_line() {
        let mut out = Vec::new();

        write_note(&mut out, "control", &["7", "{\"a\":\n1}"]);
        write_note(&mut out, "cancel", &["\"u\""]);

        assert_eq!(out, b"[\"control\",7,{\"a\": 1}]\n[\"cancel\",\"u\"]\n");
    }

    #[test]
    fn events_are_read_whatever_stands_in_them() {
        let done = |result, error, stopping| {
            Some(Event::Done {
                result,
                error,
                stopping,
            })
        };
        for (line, expected) in [
            (
                r#"{"worker":0,"event":"ready","prefetch":2}"#,
                Some(Event::Ready { prefetch: 2 }),
            ),
            (r#"{"worker":0,"event":"ready"}"#, Some(Event::Ready { prefetch: 1 })),
            (
                r#"{"event":"done","uuid":"a","result":[NaN,"\ud800"],"time_started":1.5}"#,
                done(r#"[NaN,"\ud800"]"#, None, false),
            ),
            (
                r#"{"event":"done","result":null,"error":null,"is_stopping":true}"#,
                done("null", None, true),
            ),
            (
                r#"{"event":"done","error":{"class":"ValueError","message":"no \"x\"","traceback":"T"}}"#,
                done(
                    "null",
                    Some(TaskError {
                        kind: "ValueError".into(),
                        message: "no \"x\"".into(),
                        traceback: "T".into(),
                    }),
                    false,
                ),
            ),
            (
                r#"{"event":"control","seq":3,"command":"running","control_data":{"uuid":"a"}}"#,
                Some(Event::Control {
                    seq: "3",
                    command: r#""running""#,
                    data: Some(r#"{"uuid":"a"}"#),
                }),
            ),
            (
                r#"{"event":"revoked","uuid":"b"}"#,
                Some(Event::Revoked { uuid: "b".into() }),
            ),
            (r#"{"event":"shutdown"}"#, Some(Event::Shutdown)),
            (r#"{"event":"dance"}"#, None),
            (r#"{"worker":1}"#, None),
            ("[1]", None),
            ("stop", None),
            ("", None),
        ] {
            assert_eq!(event(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_task_says_why() {
        for (payload, why) in [
            (&b"\xff"[..], "no UTF-8"),
            (b"", "no JSON"),
            (b"7", "not an object"),
            (b"{}", "`task`"),
            (b"{\"task\": 5}", "`task`"),
            (b"{\"task\": \"a.b\", \"timeout\": \"soon\"}", "`timeout`"),
            (b"{\"control\": \"running\"}", "command"),
        ] {
            let error = task(&Message::new(payload)).unwrap_err().to_string();
            assert!(error.contains(why), "{payload:?}: {error}");
        }
    }
}
