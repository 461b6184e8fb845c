//! What every verb takes.

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::output::Color;

/// What every verb takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Colour what is printed for people
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
    /// How to log to standard error: text by default on a terminal, else json
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// What to log: error, warn, info, debug, trace, or directives as in RUST_LOG [default: info]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = level)]
    pub(crate) log_level: Option<String>,
    /// Log more; twice for all
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Log less; twice for errors only
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) quiet: u8,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A level or directives, with Python's levels by our names. A bare word that is no level would be a target of which all is
/// logged, and nothing else: a mistyped level, as good as ever.
fn level(text: &str) -> Result<String, String> {
    let one = |directive: &str| {
        match directive.trim().to_ascii_lowercase().as_str() {
        "warning" => Ok("warn".to_owned()),
        "critical" => Ok("error".to_owned()),
        level @ ("error" | "warn" | "info" | "debug" | "trace" | "off") => Ok(level.to_owned()),
        _ if directive.contains(['=', '[']) => Ok(directive.to_owned()),
        _ => Err("no level: write error, warn, info, debug, trace or off, Python's DEBUG, INFO, WARNING, ERROR or CRITICAL, or \
                  TARGET=LEVEL"
            .to_owned()),
    }
    };
    let directives = text.split(',').map(one).collect::<Result<Vec<_>, _>>()?.join(",");
    EnvFilter::try_new(&directives).map_err(|error| error.to_string())?;
    Ok(directives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_ours_or_pythons_or_a_targets() {
        for (text, meant) in [
            ("DEBUG", "debug"),
            ("Info", "info"),
            ("WARNING", "warn"),
            ("error", "error"),
            ("CRITICAL", "error"),
            ("off", "off"),
            ("info,hyper=debug", "info,hyper=debug"),
            ("dispatch_core=trace", "dispatch_core=trace"),
        ] {
            assert_eq!(level(text).as_deref(), Ok(meant));
        }
        for text in ["WRONG", "", "debg", "info,hyper", "hyper=loud"] {
            assert!(level(text).is_err(), "{text}");
        }
    }
}
