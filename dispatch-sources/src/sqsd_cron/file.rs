//! The file of tasks. Pure: the text is given.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::slots::Plan;

/// One periodic task.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) path: String,
    pub(super) plan: Plan,
    /// Schedule and time zone as they were written: equal ones need not begin anew.
    pub(super) times: (String, String),
}

#[derive(Deserialize)]
struct File {
    version: Option<i64>,
    cron: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    name: Option<String>,
    url: Option<String>,
    schedule: Option<String>,
    timezone: Option<String>,
}

/// Reads the tasks, by name, or says all that is wrong.
pub(super) fn read(text: &str, timezone: &str) -> Result<BTreeMap<String, Task>, String> {
    let file: Option<File> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let Some(file) = file else {
        return Ok(BTreeMap::new());
    };
    let mut mistakes = Vec::new();
    match file.version {
        Some(1) => {}
        Some(other) => mistakes.push(format!("version {other} is not known: write `version: 1`")),
        None => mistakes.push("there is no version: write `version: 1`".to_owned()),
    }
    let mut tasks = BTreeMap::new();
    for (place, entry) in file.cron.unwrap_or_default().into_iter().enumerate() {
        match entry.task(place + 1, timezone) {
            Ok((name, _)) if tasks.contains_key(&name) => mistakes.push(format!("two tasks are named \"{name}\"")),
            Ok((name, task)) => drop(tasks.insert(name, task)),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    if mistakes.is_empty() {
        Ok(tasks)
    } else {
        Err(mistakes.join("; "))
    }
}

impl Entry {
    fn task(self, place: usize, timezone: &str) -> Result<(String, Task), String> {
        let present = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        let Some(name) = present(self.name) else {
            return Err(format!("task {place} has no name"));
        };
        let said = |what: &str| format!("task \"{name}\" has no {what}");
        let path = present(self.url).ok_or_else(|| said("url"))?;
        let schedule = present(self.schedule).ok_or_else(|| said("schedule"))?;
        // Six fields would be read with seconds in front: not what this file's other readers understand.
        let schedule = schedule.trim().to_owned();
        if !schedule.starts_with('@') && schedule.split_whitespace().count() != 5 {
            return Err(format!(
                "task \"{name}\": \"{schedule}\" does not have five fields: write minute, hour, day of month, month and day of \
                 week, such as \"0 */12 * * *\""
            ));
        }
        let zone = present(self.timezone).unwrap_or_else(|| timezone.to_owned());
        let plan = Plan::cron(&schedule, &zone).map_err(|error| format!("task \"{name}\": {error}"))?;
        Ok((
            name,
            Task {
                path,
                plan,
                times: (schedule, zone),
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_its_tasks() {
        let text = "version: 1\ncron:\n - name: \"backup-job\"\n   url: /backup\n   schedule: \"0 */12 * * *\"\n - {name: audit, url: audit, schedule: '@daily', timezone: Asia/Tokyo}\n";

        let tasks = read(text, "UTC").unwrap();

        let seen: Vec<_> = tasks
            .iter()
            .map(|(name, task)| (name.as_str(), task.path.as_str(), task.times.1.as_str()))
            .collect();
        assert_eq!(
            seen,
            [("audit", "audit", "Asia/Tokyo"), ("backup-job", "/backup", "UTC")]
        );
    }

    #[test]
    fn nothing_is_no_tasks() {
        for text in [
            "",
            "\n",
            "# only words\n",
            "version: 1",
            "version: 1\ncron:\n",
            "version: 1\ncron: []\n",
        ] {
            assert!(read(text, "UTC").unwrap().is_empty(), "{text:?}");
        }
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let task = |rest: &str| format!("version: 1\ncron:\n - {rest}\n");
        for (text, parts) in [
            ("cron: []\n".to_owned(), &["no version"][..]),
            ("version: 2\n".to_owned(), &["version 2 is not known"]),
            (task("{url: /a, schedule: '* * * * *'}"), &["task 1 has no name"]),
            (task("{name: a, schedule: '* * * * *'}"), &["task \"a\" has no url"]),
            (task("{name: a, url: /a}"), &["task \"a\" has no schedule"]),
            (task("{name: a, url: /a, schedule: often}"), &["task \"a\"", "five fields"]),
            (task("{name: a, url: /a, schedule: '0 * * * * *'}"), &["task \"a\"", "five fields"]),
            (task("{name: a, url: /a, schedule: '61 * * * *'}"), &["task \"a\"", "no cron pattern"]),
            (task("{name: a, url: /a, schedule: '* * * * *', timezone: Mars}"), &["no time zone"]),
            ("version: 3\ncron:\n - {name: a}\n - {url: b}\n".to_owned(), &["version 3", "task \"a\" has no url", "task 2 has no name"]),
            (
                "version: 1\ncron:\n - {name: a, url: /a, schedule: '* * * * *'}\n - {name: a, url: /b, schedule: '* * * * *'}\n".to_owned(),
                &["two tasks are named \"a\""],
            ),
            ("version: [1\n".to_owned(), &["line"]),
            ("just words\n".to_owned(), &["line"]),
        ] {
            let error = read(&text, "UTC").unwrap_err();

            for part in parts {
                assert!(error.contains(part), "{text}: {error}");
            }
        }
    }
}
