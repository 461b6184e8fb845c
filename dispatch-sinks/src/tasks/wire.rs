//! A task and its arguments, as dispatcherd writes them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Options, Task};

/// What stands in a message.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Incoming<'m> {
    pub(super) task: std::borrow::Cow<'m, str>,
    #[serde(default, borrow)]
    args: Option<&'m serde_json::value::RawValue>,
    #[serde(default, borrow)]
    kwargs: Option<&'m serde_json::value::RawValue>,
}

impl Incoming<'_> {
    /// The task itself, from its named arguments, or from those in order.
    pub(super) fn arguments<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        let given = |raw: &&serde_json::value::RawValue| !matches!(raw.get().trim(), "null" | "[]" | "{}");
        let (args, kwargs) = (self.args.filter(given), self.kwargs.filter(given));
        match (args, kwargs) {
            (None, Some(kwargs)) => serde_json::from_str(kwargs.get()),
            (Some(args), None) => serde_json::from_str(args.get()),
            // A task without fields, of whatever kind of type.
            (None, None) => serde_json::from_str("{}").or_else(|first| serde_json::from_str("null").map_err(|_| first)),
            (Some(_), Some(_)) => Err(serde::de::Error::custom(
                "arguments both in order and by name: give a task of a Rust type one of them",
            )),
        }
    }
}

/// The message of a task.
pub(super) fn message<T: Task>(task: &T, uuid: &str, options: &Options) -> Result<String, serde_json::Error> {
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
