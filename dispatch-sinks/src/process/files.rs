//! The Python workers, which come along in the binary and are written out for Python to read.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::config::Shim;

const FILES: [(&str, &str); 3] = [
    ("dispatch_worker.py", include_str!("python/dispatch_worker.py")),
    (
        "dispatch_dispatcherd.py",
        include_str!("python/dispatch_dispatcherd.py"),
    ),
    ("dispatch_zygote.py", include_str!("python/dispatch_zygote.py")),
];

/// What our directories' names begin with.
const PREFIX: &str = "dispatch-workers-";
/// The file in each that its owner keeps locked: the lock ends with the process, however that ends.
const LOCK: &str = "lock";

/// A private directory with the workers' files, removed with this value.
#[derive(Debug)]
pub(super) struct Files {
    directory: TempDir,
    _lock: fs::File,
}

impl Files {
    /// Writes them: into a directory that only this user can enter. Directories that killed processes of this user have
    /// left behind are removed.
    pub(super) fn write() -> io::Result<Self> {
        Self::write_in(&std::env::temp_dir())
    }

    fn write_in(parent: &Path) -> io::Result<Self> {
        let private = fs::Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(private)
            .tempdir_in(parent)?;
        let create = |name: &str| {
            fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(directory.path().join(name))
        };
        // Locked before it has its name: whoever finds it there must not take its owner for dead.
        let lock = create("lock.new")?;
        lock.lock()?;
        fs::rename(directory.path().join("lock.new"), directory.path().join(LOCK))?;
        for (name, text) in FILES {
            create(name)?.write_all(text.as_bytes())?;
        }
        if let Err(error) = remove_left_behind(parent, fs::metadata(directory.path())?.uid()) {
            tracing::debug!(%error, "directories of killed processes stay");
        }
        Ok(Self { directory, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(super) fn zygote(&self) -> PathBuf {
        self.path().join("dispatch_zygote.py")
    }

    pub(super) fn worker(&self, shim: Shim) -> PathBuf {
        self.path().join(match shim {
            Shim::Standalone => "dispatch_worker.py",
            Shim::Dispatcherd => "dispatch_dispatcherd.py",
        })
    }
}

/// Removes what is named like ours, is `user`'s, and has a lock that nobody holds.
fn remove_left_behind(parent: &Path, user: u32) -> io::Result<()> {
    for entry in fs::read_dir(parent)?.filter_map(Result::ok) {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            // Of the entry itself: a link is none.
            && entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user);
        let lock = ours.then(|| fs::File::open(entry.path().join(LOCK)));
        let Some(Ok(lock)) = lock else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        match fs::remove_dir_all(entry.path()) {
            Ok(()) => tracing::debug!(directory = %entry.path().display(), "removed what a killed process left"),
            Err(error) => tracing::debug!(directory = %entry.path().display(), %error, "a killed process's files stay"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_start_removes_what_a_dead_owner_left_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        let alive = Files::write_in(parent.path()).unwrap();
        let dead = Files::write_in(parent.path()).unwrap();
        let left = dead.directory.keep();
        drop(dead._lock);
        // Not ours: another name, no lock, and a link to somebody's directory.
        for name in ["other", "dispatch-workers-without"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("other").join(LOCK), "").unwrap();
        std::os::unix::fs::symlink(at("other"), at("dispatch-workers-link")).unwrap();

        let next = Files::write_in(parent.path()).unwrap();

        assert!(!left.exists());
        for kept in [
            alive.path(),
            next.path(),
            &at("other").join(LOCK),
            &at("dispatch-workers-without"),
            &at("dispatch-workers-link"),
        ] {
            assert!(kept.exists(), "{}", kept.display());
        }
    }

    #[test]
    fn the_files_are_this_users_alone_and_do_not_stay() {
        let files = Files::write().unwrap();
        let path = files.path().to_owned();

        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        for file in [
            files.zygote(),
            files.worker(Shim::Standalone),
            files.worker(Shim::Dispatcherd),
        ] {
            assert_eq!(
                fs::metadata(&file).unwrap().permissions().mode() & 0o777,
                0o600,
                "{file:?}"
            );
        }
        drop(files);
        assert!(!path.exists());
    }
}
