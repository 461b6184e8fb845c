//! What is printed where.

use std::io::{IsTerminal as _, Write as _, stderr, stdout};

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::{Failure, Result};

/// Whether to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Color {
    /// Whether standard error is to be coloured.
    pub(crate) fn on_stderr(self) -> bool {
        self.on(stderr().is_terminal())
    }

    /// Whether standard output is to be coloured.
    pub(crate) fn on_stdout(self) -> bool {
        self.on(stdout().is_terminal())
    }

    fn on(self, terminal: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                terminal
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                    && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        }
    }
}

/// Prints to standard output; a reader that has seen enough is no mistake.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| {
        if text.ends_with('\n') {
            Ok(())
        } else {
            out.write_all(b"\n")
        }
    });
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::run(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints JSON on one line.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    match serde_json::to_string(value) {
        Ok(text) => print(&text),
        Err(error) => Err(Failure::run(format!("cannot write JSON: {error}"))),
    }
}

/// Prints JSON for people.
pub(crate) fn print_pretty(value: &impl Serialize) -> Result<()> {
    match serde_json::to_string_pretty(value) {
        Ok(text) => print(&text),
        Err(error) => Err(Failure::run(format!("cannot write JSON: {error}"))),
    }
}

/// Prints to standard error; nothing can be done if that fails.
pub(crate) fn note(text: &str) {
    drop(writeln!(stderr().lock(), "{text}"));
}

/// Prints why a verb failed. Diagnostics bring their own heads.
pub(crate) fn complain(text: &str, color: Color) {
    if text.is_empty() {
        return;
    }
    let own = ["error", "warning", "\u{1b}"].iter().any(|head| text.starts_with(head));
    if own {
        note(text);
    } else if color.on_stderr() {
        note(&format!("\u{1b}[1;31merror\u{1b}[0m: {text}"));
    } else {
        note(&format!("error: {text}"));
    }
}

/// Columns of text, padded to their widest entry.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let lengths = rows.iter().filter_map(|row| row.get(column));
        lengths.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
