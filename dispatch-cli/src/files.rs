//! Finding pipeline files: by pattern, in a directory, below it.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// The files that `path` stands for: itself, or, where there is none of that name, those that it is a pattern of.
pub(crate) fn matching(path: &Path) -> Result<Vec<PathBuf>> {
    let text = path.to_string_lossy();
    if path.exists() || !text.contains(['*', '?', '[']) {
        return Ok(vec![path.to_path_buf()]);
    }
    let failed = |error: &dyn std::fmt::Display| Failure::config(format!("cannot look for {text}: {error}"));
    let mut files = Vec::new();
    for found in glob::glob(&text).map_err(|error| failed(&error))? {
        files.push(found.map_err(|error| failed(&error))?);
    }
    if files.is_empty() {
        return Err(Failure::config(format!("no file matches {text}")));
    }
    Ok(files)
}

/// Pipeline files in a directory and, if `deep`, in those below it, in order of their names; what is no pipeline is passed over.
pub(crate) fn within(directory: &Path, deep: bool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    walk(directory, deep, &mut files)?;
    if files.is_empty() {
        return Err(Failure::config(format!(
            "there is no pipeline file in {}",
            directory.display()
        )));
    }
    Ok(files)
}

fn walk(directory: &Path, deep: bool, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |error: std::io::Error| Failure::config(format!("cannot read {}: {error}", directory.display()));
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
    }
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            let others = name.starts_with('.') || name == "target" || name == "node_modules";
            if deep && !others && !path.is_symlink() {
                walk(&path, deep, files)?;
            }
        } else if path.extension().is_some_and(|ending| ending == "toml") && is_pipeline(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether a file looks like a pipeline and not like somebody else's TOML. What cannot be read is for the reader to say.
fn is_pipeline(path: &Path) -> bool {
    let Ok(text) = std::fs::read_to_string(path) else {
        return true;
    };
    let heads = ["source", "sink"];
    text.lines().any(|line| {
        let line = line.trim_start_matches(['[', ' ', '\t']);
        heads.iter().any(|head| {
            line.strip_prefix(head)
                .is_some_and(|rest| rest.trim_start().starts_with([']', '.', '=']))
        })
    })
}
