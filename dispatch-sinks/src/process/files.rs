//! The Python workers, which come along in the binary and are written out for Python to read.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
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

/// A private directory with the workers' files, removed with this value.
#[derive(Debug)]
pub(super) struct Files(TempDir);

impl Files {
    /// Writes them: into a directory that only this user can enter.
    pub(super) fn write() -> io::Result<Self> {
        let private = fs::Permissions::from_mode(0o700);
        let directory = tempfile::Builder::new()
            .prefix("dispatch-workers-")
            .permissions(private)
            .tempdir()?;
        for (name, text) in FILES {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(directory.path().join(name))?;
            file.write_all(text.as_bytes())?;
        }
        Ok(Self(directory))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
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

#[cfg(test)]
mod tests {
    use super::*;

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
