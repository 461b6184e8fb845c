//! One message of a channel: a task, a command, a piece of something larger, or nothing that can be.

use std::{borrow::Cow, time::Duration};

use smol_str::{SmolStr, ToSmolStr};

use super::{
    chunks::{Chunk, MARKER},
    json,
};
use crate::Outline;

/// What a text that came in is.
#[derive(Debug, Clone, PartialEq)]
pub enum Incoming<'t> {
    /// A task to be run.
    Task(TaskMessage<'t>),
    /// A command to the service.
    Control(ControlMessage),
    /// A piece of a message.
    Chunk(Chunk),
    /// A listener's own question whether it still hears; the text of its `task`.
    SelfCheck(String),
    /// Nothing that can be, and why. It disturbs nothing else.
    Rejected(Rejected),
}

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Rejected(pub String);

/// A task to be run: the text it came as, and what the service itself reads of it. Borrowed, for each service keeps what
/// it needs; only what is not in the text as it stands (a name written with escapes, the object of a bare name) is owned.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskMessage<'t> {
    /// The JSON object, byte for byte as it came.
    pub text: Cow<'t, str>,
    /// `module.function`, or a text that begins with `lambda`.
    pub task: Cow<'t, str>,
    /// Its id, if it has one.
    pub uuid: Option<Cow<'t, str>>,
    /// How long it may run, from its hand-over to a worker on.
    pub timeout: Option<Duration>,
    /// How long it is held before it may run.
    pub delay: Option<Duration>,
    /// What is to happen if its like is running or waits.
    pub on_duplicate: OnDuplicate,
    /// Where its name, its arguments and its id stand in the text, if that can be said of the text as it is.
    pub outline: Option<Outline>,
}

/// What is to happen to a task whose like (same task, same arguments) is running or waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDuplicate {
    /// It runs beside it.
    #[default]
    Parallel,
    /// It is dropped.
    Discard,
    /// It waits until its like is done.
    Serial,
    /// It waits, unless one waits already; then it is dropped.
    QueueOne,
}

/// A command to the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlMessage {
    /// Its name.
    pub command: SmolStr,
    /// What it is about: the text of a JSON object.
    pub data: String,
    /// The channel that the answer goes to, if anybody waits for one.
    pub reply_to: Option<String>,
    /// How long it is held; a delayed command is not answered.
    pub delay: Option<Duration>,
}

/// What a text that is no JSON is taken for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BarePayload {
    /// A task's name.
    #[default]
    Task,
    /// Nothing that can be.
    Reject,
}

/// A channel's name is at most this long, in bytes of UTF-8 (PostgreSQL, `NAMEDATALEN` less one).
pub const LONGEST_CHANNEL: usize = 63;

impl<'t> Incoming<'t> {
    /// Reads one message.
    #[must_use]
    pub fn read(text: &'t str, bare: BarePayload) -> Self {
        let mut members = Members::default();
        match json::each_member(text, |key, raw| members.note(&key, raw)) {
            Ok(true) => Self::of_members(text, &members).unwrap_or_else(Self::Rejected),
            Ok(false) => Self::Rejected(Rejected("JSON, but not an object".to_owned())),
            Err(_) if bare == BarePayload::Task => Self::Task(TaskMessage {
                text: format!(r#"{{"task": {}}}"#, serde_json::Value::from(text)).into(),
                task: text.into(),
                uuid: None,
                timeout: None,
                delay: None,
                on_duplicate: OnDuplicate::Parallel,
                outline: None,
            }),
            Err(error) => Self::Rejected(Rejected(error.to_string())),
        }
    }

    fn of_members(text: &'t str, members: &Members<'t>) -> Result<Self, Rejected> {
        if members.is_chunk
            && let Ok(Some(all)) = json::members(text)
            && let Some(chunk) = Chunk::read(&all)
        {
            return chunk
                .map(Self::Chunk)
                .map_err(|why| Rejected(format!("a piece of a message {why}")));
        }
        if members.self_check.is_some_and(truthy) {
            let task = string("task", members.task)?;
            return Ok(Self::SelfCheck(task.unwrap_or_default().into_owned()));
        }
        let delay = seconds("delay", members.delay)?;
        if members.control.is_some() {
            return Ok(Self::Control(ControlMessage {
                command: string("control", members.control)?.unwrap_or_default().to_smolstr(),
                data: object("control_data", members.control_data)?.unwrap_or("{}").to_owned(),
                reply_to: channel("reply_to", members.reply_to)?,
                delay,
            }));
        }
        let on_duplicate = match members.on_duplicate.and_then(json::string).as_deref() {
            Some("discard") => OnDuplicate::Discard,
            Some("serial") => OnDuplicate::Serial,
            Some("queue_one") => OnDuplicate::QueueOne,
            None | Some("parallel") => OnDuplicate::Parallel,
            Some(other) => {
                tracing::warn!(on_duplicate = other, "unknown on_duplicate: taken as parallel");
                OnDuplicate::Parallel
            }
        };
        let task = string("task", members.task)?;
        let task = task.ok_or_else(|| Rejected("neither `task` nor `control`".to_owned()))?;
        let uuid = name_of("uuid", members.uuid)?.filter(|uuid| !uuid.is_empty());
        let arguments = [members.args, members.kwargs].map(|raw| raw.filter(|raw| !is_empty(raw)));
        let timeout = seconds("timeout", members.timeout)?;
        let outline = match (arguments, &task) {
            // Whoever gets both has to look for himself, and so has who is to heed a limit; and a name that is owned is
            // written otherwise.
            ([Some(_), Some(_)], _) | (_, Cow::Owned(_)) => None,
            _ if timeout.is_some() => None,
            ([args, kwargs], Cow::Borrowed(task)) => Outline::of(text, task, uuid.as_deref(), args.or(kwargs)),
        };
        Ok(Self::Task(TaskMessage {
            text: text.into(),
            task,
            uuid,
            timeout,
            delay,
            on_duplicate,
            outline,
        }))
    }
}

/// What a service reads of an object, each as its own text; of a key that stands twice the last one counts.
#[derive(Default)]
struct Members<'t> {
    is_chunk: bool,
    self_check: Option<&'t str>,
    control: Option<&'t str>,
    control_data: Option<&'t str>,
    reply_to: Option<&'t str>,
    task: Option<&'t str>,
    args: Option<&'t str>,
    kwargs: Option<&'t str>,
    uuid: Option<&'t str>,
    timeout: Option<&'t str>,
    delay: Option<&'t str>,
    on_duplicate: Option<&'t str>,
}

impl<'t> Members<'t> {
    fn note(&mut self, key: &str, raw: &'t str) {
        let place = match key {
            "task" => &mut self.task,
            "args" => &mut self.args,
            "kwargs" => &mut self.kwargs,
            "uuid" => &mut self.uuid,
            "timeout" => &mut self.timeout,
            "delay" => &mut self.delay,
            "on_duplicate" => &mut self.on_duplicate,
            "control" => &mut self.control,
            "control_data" => &mut self.control_data,
            "reply_to" => &mut self.reply_to,
            "self_check" => &mut self.self_check,
            MARKER => return self.is_chunk = true,
            _ => return,
        };
        *place = Some(raw);
    }
}

/// What is there and not `null`.
fn given(raw: Option<&str>) -> Option<&str> {
    raw.filter(|raw| *raw != "null")
}

fn string<'t>(name: &str, raw: Option<&'t str>) -> Result<Option<Cow<'t, str>>, Rejected> {
    given(raw)
        .map(|raw| json::string(raw).ok_or_else(|| wrong(name, "a text", raw)))
        .transpose()
}

/// A text, or what else is no list and no object, by its JSON: `5` is called "5".
fn name_of<'t>(name: &str, raw: Option<&'t str>) -> Result<Option<Cow<'t, str>>, Rejected> {
    match given(raw) {
        Some(raw) if raw.starts_with(['{', '[']) => Err(wrong(name, "a text or a number", raw)),
        given => Ok(given.map(|raw| json::string(raw).unwrap_or(Cow::Borrowed(raw)))),
    }
}

fn object<'t>(name: &str, raw: Option<&'t str>) -> Result<Option<&'t str>, Rejected> {
    match given(raw) {
        Some(raw) if !raw.starts_with('{') => Err(wrong(name, "an object", raw)),
        object => Ok(object),
    }
}

fn channel(name: &str, raw: Option<&str>) -> Result<Option<String>, Rejected> {
    let channel = string(name, raw)?.filter(|channel| !channel.is_empty());
    match channel {
        Some(channel) if channel.len() > LONGEST_CHANNEL => Err(Rejected(format!(
            "`{name}` is {} bytes long, and a channel's name {LONGEST_CHANNEL} at most",
            channel.len()
        ))),
        channel => Ok(channel.map(Cow::into_owned)),
    }
}

/// A number of seconds: none where it is absent, `null`, `false` or 0; at once where it is negative. `true` is 1, as in Python.
fn seconds(name: &str, raw: Option<&str>) -> Result<Option<Duration>, Rejected> {
    let Some(raw) = given(raw).filter(|raw| *raw != "false") else {
        return Ok(None);
    };
    let raw = if raw == "true" { "1" } else { raw };
    let seconds = raw.parse::<f64>().ok().filter(|seconds| seconds.is_finite());
    let seconds = seconds.filter(|_| raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()));
    let seconds = seconds.ok_or_else(|| wrong(name, "a number of seconds", raw))?;
    if seconds == 0.0 {
        return Ok(None);
    }
    // A time so far ahead can be added to any other.
    let seconds = Some(seconds.max(0.0)).filter(|seconds| *seconds <= LONGEST);
    let seconds = seconds.ok_or_else(|| wrong(name, "a number of seconds, a hundred years at most", raw))?;
    Ok(Some(Duration::from_secs_f64(seconds)))
}

/// A hundred years, in seconds.
const LONGEST: f64 = 36_525.0 * 86_400.0;

fn wrong(name: &str, wanted: &str, raw: &str) -> Rejected {
    let shown: String = raw.chars().take(40).collect();
    Rejected(format!("`{name}` is {shown} and not {wanted}"))
}

/// Metadata of a message whose task asks for a `delay` or has an `on_duplicate` that nobody has heeded yet, as publishers
/// send it; whoever heeds them takes it off.
pub const ASKS: &str = "dispatch-asks";

/// What makes two tasks each other's like, as `dispatch_py.broker` has it for `dispatch_enqueue`: the object of those of
/// `task`, `args` and `kwargs` that are there, [as Python writes it](json::as_python_writes); its SHA-256 in hexadecimal
/// is the identity. `message` is the text of a task.
///
/// # Errors
/// The text is no JSON.
pub fn likeness(message: &str) -> Result<String, json::Malformed> {
    let members = json::members(message)?.unwrap_or_default();
    let mut parts = String::from("{");
    for name in ["args", "kwargs", "task"] {
        if let Some((_, raw)) = members.iter().rev().find(|(key, _)| key == name) {
            parts.push_str(if parts.len() > 1 { "," } else { "" });
            parts.push_str(&format!("\"{name}\":{raw}"));
        }
    }
    json::as_python_writes(&(parts + "}"))
}

/// Whether arguments are none: `null`, or nothing in them.
#[must_use]
pub fn is_empty(arguments: &str) -> bool {
    matches!(arguments, "null" | "[]" | "{}")
}

/// As Python sees it: `null`, `false`, 0 and what is empty are not true.
pub(super) fn truthy(raw: &str) -> bool {
    !matches!(raw, "null" | "false" | "0" | "0.0" | "\"\"" | "[]" | "{}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Incoming<'_> {
        Incoming::read(text, BarePayload::Task)
    }

    fn task(text: &str) -> TaskMessage<'_> {
        match read(text) {
            Incoming::Task(task) => task,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_task_keeps_its_text_and_tells_what_the_service_needs() {
        let text = r#"{"task": "pkg.mod.func", "time_pub": 1795314018.3007326, "uuid": "79688366", "args": [NaN, "\ud800"],
            "timeout": 1, "bind": true, "delay": 2.5, "on_duplicate": "queue_one", "guid": "x"}"#;

        let task = task(text);

        assert_eq!(task.text, text);
        assert_eq!((&*task.task, task.uuid.as_deref()), ("pkg.mod.func", Some("79688366")));
        assert_eq!(
            (task.timeout, task.delay, task.on_duplicate),
            (
                Some(Duration::from_secs(1)),
                Some(Duration::from_millis(2_500)),
                OnDuplicate::QueueOne
            )
        );
    }

    #[test]
    fn what_is_absent_false_or_zero_is_none() {
        for value in ["null", "0", "0.0", "-0", "false"] {
            let text = format!(r#"{{"task": "a.b", "delay": {value}, "timeout": {value}, "uuid": ""}}"#);
            let task = task(&text);
            assert_eq!((task.delay, task.timeout, task.uuid), (None, None, None), "{value}");
        }
        assert_eq!(task(r#"{"task": "a.b", "delay": -3}"#).delay, Some(Duration::ZERO));
        assert_eq!(
            task(r#"{"task": "a.b", "on_duplicate": "sometimes"}"#).on_duplicate,
            OnDuplicate::Parallel
        );
        assert_eq!(
            task(r#"{"task": "a.b", "on_duplicate": 5}"#).on_duplicate,
            OnDuplicate::Parallel
        );
    }

    #[test]
    fn an_id_may_be_any_scalar_and_true_is_a_second() {
        for (uuid, name) in [
            ("5", "5"),
            ("-1.50", "-1.50"),
            ("true", "true"),
            ("\"5\"", "5"),
            ("0", "0"),
        ] {
            let text = format!(r#"{{"task": "a.b", "uuid": {uuid}, "delay": true, "timeout": true}}"#);
            let task = task(&text);
            let second = Some(Duration::from_secs(1));
            assert_eq!(
                (task.uuid.as_deref(), task.delay, task.timeout),
                (Some(name), second, second)
            );
        }
        let text = r#"{"task": "a.b", "uuid": 5, "args": [5]}"#;
        let outline = task(text).outline.unwrap();
        assert_eq!(outline.id(text.as_bytes()), Some("5"));
    }

    #[test]
    fn a_bare_payload_is_a_tasks_name() {
        for bare in ["pkg.f", "lambda: 1", "", "say \"hi\""] {
            assert_eq!(task(bare).task, bare);
            assert!(json::members(&task(bare).text).unwrap().is_some(), "{bare}");
            assert!(matches!(
                Incoming::read(bare, BarePayload::Reject),
                Incoming::Rejected(_)
            ));
        }
    }

    #[test]
    fn a_command_is_read_and_goes_before_a_task() {
        let found = read(
            r#"{"control": "running", "task": "a.b", "reply_to": "reply_to_0f3c", "control_data": {"uuid": "abc"}}"#,
        );

        assert_eq!(
            found,
            Incoming::Control(ControlMessage {
                command: "running".into(),
                data: r#"{"uuid": "abc"}"#.to_owned(),
                reply_to: Some("reply_to_0f3c".to_owned()),
                delay: None,
            })
        );
    }

    #[test]
    fn of_a_key_that_stands_twice_the_last_one_counts_and_an_escaped_one_is_the_same() {
        let twice =
            task(r#"{"task": "a.b", "delay": 5, "uuid": 7, "uuid": "x", "\u0074ask": "c\u002ed", "delay": null}"#);

        assert_eq!(
            (&*twice.task, twice.uuid.as_deref(), twice.delay),
            ("c.d", Some("x"), None)
        );
        let piece = r#"{"__dispatcherd_chunk__":"v1","message_id":"a","index":0,"total":1,"total":2,"payload":"x"}"#;
        assert!(matches!(read(piece), Incoming::Chunk(_)));
    }

    /// Each of these made the original deaf for a second or for good.
    #[test]
    fn messages_that_cannot_be_are_refused_alone() {
        let long = "x".repeat(64);
        for bad in [
            r#"{"task": "a.b", "delay": "soon"}"#,
            r#"{"task": "a.b", "delay": NaN}"#,
            r#"{"task": "a.b", "delay": "true"}"#,
            r#"{"task": "a.b", "uuid": [5]}"#,
            r#"{"task": "a.b", "uuid": {}}"#,
            r#"{"task": "a.b", "delay": [1]}"#,
            r#"{"task": "a.b", "delay": 1e400}"#,
            r#"{"task": "a.b", "timeout": "1"}"#,
            r#"{"task": "a.b", "timeout": Infinity}"#,
            r#"{"task": 7}"#,
            r#"{"uuid": "x"}"#,
            r#"{"control": 7}"#,
            r#"{"control": "alive", "control_data": [1]}"#,
            r#"{"control": "alive", "reply_to": 7}"#,
            &format!(r#"{{"control": "alive", "reply_to": "{long}"}}"#),
            "[1]",
            "7",
            "null",
            r#"{"__dispatcherd_chunk__": "v9"}"#,
        ] {
            assert!(matches!(read(bad), Incoming::Rejected(_)), "{bad}: {:?}", read(bad));
        }
        assert_eq!(read(r#"{"self_check": true}"#), Incoming::SelfCheck(String::new()));
    }
}
