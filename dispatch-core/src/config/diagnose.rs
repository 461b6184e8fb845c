//! Mistakes in a file, each with its place, what is allowed and the nearest name.

use std::{fmt, ops::Range, sync::Arc};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

/// One mistake, or one warning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Whether the file can be used all the same.
    pub warning: bool,
    /// What is wrong, on one line.
    pub message: String,
    /// Which file, or `--set`.
    pub origin: Arc<str>,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// What is wrong with the place that is underlined.
    pub label: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The text around the place, and the place in it in bytes.
    #[serde(skip)]
    source: Arc<str>,
    #[serde(skip)]
    span: Range<usize>,
}

/// All mistakes of a file, in the order of their places.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Whether there are errors and not only warnings.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|diagnostic| !diagnostic.warning)
    }

    /// For a terminal: each with its lines and the place underlined.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let render = |diagnostic: &Diagnostic| diagnostic.render(&renderer);
        self.0.iter().map(render).collect::<Vec<_>>().join("\n\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostic {
    fn render(&self, renderer: &Renderer) -> String {
        let level = if self.warning { Level::WARNING } else { Level::ERROR };
        let place = AnnotationKind::Primary
            .span(self.span.clone())
            .label(self.label.as_str());
        let snippet = Snippet::source(&*self.source).path(&*self.origin).annotation(place);
        let mut group = level.primary_title(self.message.as_str()).element(snippet);
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

/// Texts laid end to end, so that one number names a place in any of them.
#[derive(Debug, Default, Clone)]
pub(super) struct Sources(Vec<(Arc<str>, Arc<str>, usize)>);

impl Sources {
    /// Adds a text under its name and says where it begins.
    pub(super) fn add(&mut self, name: &str, text: &str) -> usize {
        let start = self.0.last().map_or(0, |(_, text, start)| start + text.len() + 1);
        self.0.push((name.into(), text.into(), start));
        start
    }

    pub(super) fn error(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        let found = self
            .0
            .iter()
            .rev()
            .find(|(_, _, start)| *start <= span.start)
            .or_else(|| self.0.first());
        let (origin, source, start) = found.cloned().unwrap_or_else(|| ("".into(), "".into(), 0));
        let clip = |at: usize| {
            let mut at = at.saturating_sub(start).min(source.len());
            while !source.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let span = clip(span.start)..clip(span.end).max(clip(span.start));
        let before = &source[..span.start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Diagnostic {
            warning: false,
            message: message.into(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            label: String::new(),
            help: None,
            origin,
            source,
            span,
        }
    }
}

impl Diagnostic {
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }
}

/// The name among `allowed` that `name` was probably meant to be.
pub(super) fn nearest<'a>(name: &str, allowed: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    allowed
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count().max(name.chars().count()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a`, `b` or `c`.
pub(super) fn any_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        let names = ["rate_limit", "retry", "timeout"];

        assert_eq!(nearest("rate_limits", names), Some("rate_limit"));
        assert_eq!(nearest("retyr", names), Some("retry"));
        assert_eq!(nearest("colour", names), None);
    }

    #[test]
    fn any_place_can_be_shown() {
        let mut sources = Sources::default();
        sources.add("a.toml", "é = 1\nb = 2\n");
        let start = sources.add("--set", "c = 3");

        let second = sources.error(start..start + 1, "x");
        let odd = sources.error(1..500, "x");

        assert_eq!((&*second.origin, second.line, second.column), ("--set", 1, 1));
        assert_eq!((odd.line, odd.column), (1, 1));
        assert!(Diagnostics(vec![second, odd]).render(false).contains("--set"));
    }
}
