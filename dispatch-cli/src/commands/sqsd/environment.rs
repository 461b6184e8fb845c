//! The variables: those of a file where one is named, under those of the process.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::{
    env_file,
    failure::{Failure, Result},
};

/// All variables, and which of them the file gave.
#[derive(Debug, Default)]
pub(super) struct Environment {
    variables: BTreeMap<String, String>,
    from_file: BTreeSet<String>,
}

/// Reads the process's variables, and those of `file`.
pub(super) fn read(file: Option<&Path>) -> Result<Environment> {
    let process =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let file = file
        .map(|path| env_file::read(&find(path)))
        .transpose()?
        .unwrap_or_default();
    Ok(Environment::of(file, process))
}

/// The file in the working directory, if there is one; else as it is named.
fn find(path: &Path) -> PathBuf {
    let below: PathBuf = path
        .components()
        .filter(|part| !matches!(part, std::path::Component::RootDir))
        .collect();
    if path.is_absolute() && below.is_file() {
        below
    } else {
        path.to_owned()
    }
}

impl Environment {
    pub(super) fn of(
        file: impl IntoIterator<Item = (String, String)>,
        process: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut variables: BTreeMap<_, _> = file.into_iter().collect();
        let mut from_file: BTreeSet<_> = variables.keys().cloned().collect();
        for (name, value) in process {
            from_file.remove(&name);
            variables.insert(name, value);
        }
        Self { variables, from_file }
    }

    /// A variable's value; an empty one is none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    pub(super) fn is_from_file(&self, name: &str) -> bool {
        self.from_file.contains(name)
    }

    /// Amazon's SDK reads the variables of this process: starts the process again, in its place, where those of the file
    /// are its own. Without any there is nothing to do.
    #[cfg(unix)]
    pub(super) fn make_own(&self) -> Result<()> {
        use std::os::unix::process::CommandExt as _;
        let amazons = self.from_file.iter().filter(|name| name.starts_with("AWS_"));
        let own: Vec<_> = amazons.filter_map(|name| self.variables.get_key_value(name)).collect();
        if own.is_empty() {
            return Ok(());
        }
        let failed = |error: std::io::Error| {
            Failure::run(format!(
                "starting again with the environment file's AWS variables: {error}"
            ))
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut arguments = std::env::args_os();
        let mut command = std::process::Command::new(&program);
        command.arg0(arguments.next().unwrap_or_else(|| program.into()));
        Err(failed(command.args(arguments).envs(own).exec()))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }

    pub(super) fn into_variables(self) -> BTreeMap<String, String> {
        self.variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_goes_before_the_file() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = Environment::of(
            [pair("A", "file"), pair("B", "file"), pair("C", " ")],
            [pair("A", "process")],
        );

        assert_eq!(
            (environment.get("A"), environment.is_from_file("A")),
            (Some("process"), false)
        );
        assert_eq!(
            (environment.get("B"), environment.is_from_file("B")),
            (Some("file"), true)
        );
        assert_eq!(environment.get("C"), None);
    }
}
