//! Which tasks a command is about.

use std::borrow::Cow;

use super::json;

/// Which tasks a command is about: every member of its data that says something must be equal; none means all.
///
/// ```
/// use dispatch_core::tasks::Filter;
///
/// let filter = Filter::read(r#"{"task": "app.add", "args": [1.0], "uuid": null}"#);
/// assert!(filter.picks("app.add", "7", || r#"{"task": "app.add", "args": [1]}"#.into()));
/// assert!(!filter.picks("app.add", "8", || r#"{"task": "app.add"}"#.into()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter<'d> {
    task: Option<Cow<'d, str>>,
    uuid: Option<Cow<'d, str>>,
    arguments: Vec<(&'static str, &'d str)>,
}

impl<'d> Filter<'d> {
    /// Reads a command's `control_data`; what is no object picks all, as in dispatcherd.
    #[must_use]
    pub fn read(data: &'d str) -> Self {
        let members = json::members(data).ok().flatten().unwrap_or_default();
        let given = |name: &str| {
            let raw = members.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| *raw);
            raw.filter(|raw| super::message::truthy(raw))
        };
        let text = |name| given(name).map(|raw| json::string(raw).unwrap_or(Cow::Borrowed(raw)));
        Self {
            task: text("task"),
            uuid: text("uuid"),
            arguments: ["args", "kwargs"]
                .into_iter()
                .filter_map(|name| Some((name, given(name)?)))
                .collect(),
        }
    }

    /// The texts that stand in each task that it picks, or are its id.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.task.as_deref().into_iter().chain(self.uuid.as_deref())
    }

    /// Whether it picks this task; its `text`, an object, is asked for only where arguments matter.
    pub fn picks<'t>(&self, task: &str, uuid: &str, text: impl FnOnce() -> Cow<'t, str>) -> bool {
        self.task.as_ref().is_none_or(|wanted| wanted == task)
            && self.uuid.as_ref().is_none_or(|wanted| wanted == uuid)
            && (self.arguments.is_empty() || self.picks_arguments(&text()))
    }

    fn picks_arguments(&self, text: &str) -> bool {
        let members = json::members(text).ok().flatten().unwrap_or_default();
        self.arguments.iter().all(|(name, wanted)| {
            let own = members.iter().rev().find(|(key, _)| key == name).map(|(_, raw)| *raw);
            own.is_some_and(|own| own == *wanted || json::canonical(own).ok() == json::canonical(wanted).ok())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_that_says_something_must_be_equal() {
        let text = r#"{"task": "a.b", "args": [1, {"x": 2, "y": NaN}], "kwargs": {}, "uuid": "u"}"#;
        for (data, picked) in [
            ("{}", true),
            ("no object", true),
            (r#"{"task": null, "uuid": "", "args": [], "kwargs": {}}"#, true),
            (r#"{"task": "a.b"}"#, true),
            (r#"{"task": "a.c"}"#, false),
            (r#"{"task": "a.b", "uuid": "v"}"#, false),
            (r#"{"uuid": "\u0075"}"#, true),
            (r#"{"args": [1.0, {"y": NaN, "x": 2}]}"#, true),
            (r#"{"args": [1]}"#, false),
            (r#"{"kwargs": {"a": 1}}"#, false),
        ] {
            assert_eq!(Filter::read(data).picks("a.b", "u", || text.into()), picked, "{data}");
        }
    }
}
