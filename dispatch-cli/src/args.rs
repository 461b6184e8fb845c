//! The command line.

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use crate::{commands::Verb, global::Global};

/// Pull work from any queue, push it through layers into any worker, and never lose one.
#[derive(Debug, Parser)]
#[command(
    name = "dispatch",
    disable_version_flag = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Print version, commit and features
    #[arg(short = 'V', long)]
    pub(crate) version: bool,
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

/// Flags without an environment variable: those that choose what is acted on or allow it, which a variable left over
/// from elsewhere must not do (the `command` sink sets DISPATCH_ID and DISPATCH_KEY for its processes), and those whose
/// variable is read elsewhere.
const NO_TWIN: [&str; 26] = [
    "all",
    "class",
    "code",
    "config",
    "config-dir",
    "dedupe",
    "delay",
    "dry-run",
    "header",
    "help",
    "id",
    "key",
    "ndjson",
    "payload",
    "pipeline",
    "priority",
    "queue",
    "quiet",
    "reason",
    "set",
    "since",
    "task",
    "to",
    "until",
    "verbose",
    "yes",
];

/// The whole command line, each setting with its variable `DISPATCH_<FLAG>`.
pub(crate) fn command() -> clap::Command {
    with_twins(Cli::command())
}

fn with_twins(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let Some(long) = arg.get_long().filter(|long| !NO_TWIN.contains(long)) else {
            return arg;
        };
        if long == "version" || arg.get_env().is_some() {
            return arg;
        }
        let name = format!("DISPATCH_{}", long.to_uppercase().replace('-', "_"));
        // A token must not be shown by `--help`; for the others the value there is a help.
        arg.env(name).hide_env_values(true)
    });
    command.mut_subcommands(with_twins)
}

/// Reads the process's arguments.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    parse_from(under_its_name(std::env::args_os().collect()))
}

/// Started under the name of one that it stands in for, the binary takes that one's verb.
fn under_its_name(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let name = arguments
        .first()
        .map(std::path::Path::new)
        .and_then(std::path::Path::file_stem);
    let ours = |(original, _): &&(&str, &str)| name.is_some_and(|name| name == *original);
    if let Some((_, verb)) = PRESETS.iter().find(ours) {
        arguments.insert(1, verb.into());
    }
    arguments
}

/// Names of originals, and the verbs that are their front doors.
const PRESETS: &[(&str, &str)] = &[
    ("sqsd", "sqsd"),
    #[cfg(feature = "dispatcherd")]
    ("dispatcherd", "dispatcherd"),
    #[cfg(feature = "dispatcherd")]
    ("dispatcher-standalone", "dispatcherd"),
];

fn parse_from(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches_from(arguments)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_originals_name_is_its_verb() {
        for (arguments, expected) in [
            (
                &["/usr/bin/sqsd", "-e", ".env"][..],
                &["/usr/bin/sqsd", "sqsd", "-e", ".env"][..],
            ),
            (&["sqsd"], &["sqsd", "sqsd"]),
            (&["dispatch", "run"], &["dispatch", "run"]),
            (&["/opt/sqsd/dispatch"], &["/opt/sqsd/dispatch"]),
        ] {
            let given = arguments.iter().map(OsString::from).collect();

            assert_eq!(under_its_name(given), expected, "{arguments:?}");
        }
    }

    #[test]
    fn the_command_line_makes_sense() {
        command().debug_assert();
    }
}
