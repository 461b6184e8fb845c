//! Watching the files that a run was made from, by asking once a second: that works on every file system, for files that an
//! editor puts in the place of others, for links that are moved, and for files that come or go in a directory.

use std::{collections::BTreeMap, path::PathBuf, time::Duration, time::SystemTime};

use tokio::time::sleep;

use crate::config::ConfigArgs;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What is seen of every file: when it was changed, and how long it is. Nothing of one that cannot be read.
type Seen = BTreeMap<PathBuf, Option<(SystemTime, u64)>>;

/// The files of a run, and how they were.
#[derive(Debug)]
pub(crate) struct Watch {
    args: ConfigArgs,
    /// As they were when they were last read.
    known: Seen,
    /// As they were a moment ago.
    last: Seen,
}

impl Watch {
    /// Watches from now on.
    pub(crate) fn new(args: &ConfigArgs) -> Self {
        let known = look(args);
        Self {
            args: args.clone(),
            last: known.clone(),
            known,
        }
    }

    /// Waits until they have changed, and then stayed so for a second: who writes them may not be done at once.
    ///
    /// # Cancel safety
    /// Dropping it loses no change.
    pub(crate) async fn changed(&mut self) {
        loop {
            sleep(LOOK).await;
            let args = self.args.clone();
            // A file system may take its time.
            let Ok(now) = tokio::task::spawn_blocking(move || look(&args)).await else {
                continue;
            };
            let stays = now == self.last;
            self.last = now;
            if stays && self.last != self.known {
                self.known = self.last.clone();
                return;
            }
        }
    }
}

fn look(args: &ConfigArgs) -> Seen {
    let files = args.paths().unwrap_or_default();
    let seen = |path: PathBuf| {
        let data = std::fs::metadata(&path).ok();
        let seen = data.and_then(|data| Some((data.modified().ok()?, data.len())));
        (path, seen)
    };
    files.into_iter().chain(args.over.env_file.clone()).map(seen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often it was called up within `looks` looks.
    async fn calls(watch: &mut Watch, looks: u32) -> u32 {
        let until = tokio::time::Instant::now() + LOOK * looks + LOOK / 2;
        let mut calls = 0;
        while tokio::time::timeout_at(until, watch.changed()).await.is_ok() {
            calls += 1;
        }
        calls
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_once_it_stays_and_only_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        std::fs::write(file("a.toml"), "[source]\n").unwrap();
        std::fs::write(file("env"), "A=1\n").unwrap();
        let mut args = ConfigArgs {
            config_dir: vec![directory.path().to_owned()],
            ..ConfigArgs::default()
        };
        args.over.env_file = vec![file("env")];
        let mut watch = Watch::new(&args);
        assert_eq!(calls(&mut watch, 3).await, 0, "nothing changed");

        for (what, change) in [
            ("another text", ("a.toml", Some("[source]\nx = 1\n"))),
            ("a further file", ("b.toml", Some("[sink]\n"))),
            ("one that is gone", ("b.toml", None)),
            ("variables", ("env", Some("A=12\n"))),
        ] {
            match change {
                (name, Some(text)) => std::fs::write(file(name), text).unwrap(),
                (name, None) => std::fs::remove_file(file(name)).unwrap(),
            }
            assert_eq!(calls(&mut watch, 4).await, 1, "{what}");
        }

        std::fs::write(file("a.toml"), "[source]\nbeing written").unwrap();
        assert_eq!(calls(&mut watch, 1).await, 0, "seen once");
        std::fs::write(file("a.toml"), "[source]\nbeing written still").unwrap();
        assert_eq!(calls(&mut watch, 1).await, 0, "changed again");
        assert_eq!(calls(&mut watch, 1).await, 1, "stayed");
    }
}
