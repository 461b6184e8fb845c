//! Pipeline files as presets write them.

use std::time::Duration;

/// A pipeline file in the making.
#[derive(Debug, Default)]
pub(super) struct Page(pub(super) String);

impl Page {
    pub(super) fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    pub(super) fn table(&mut self, name: &str) {
        self.line(&format!("\n[{name}]"));
    }

    pub(super) fn pair(&mut self, key: &str, value: &str) {
        self.line(&format!("{key} = {}", quoted(value)));
    }

    pub(super) fn maybe(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.pair(key, value);
        }
    }

    pub(super) fn raw(&mut self, key: &str, value: impl std::fmt::Display) {
        self.line(&format!("{key} = {value}"));
    }
}

/// A value as TOML writes it, with nothing in it that would be filled in.
pub(super) fn quoted(value: &str) -> String {
    toml::Value::String(value.replace('$', "$$")).to_string()
}

pub(super) fn period(period: Duration) -> String {
    dispatch_core::config::Period(period).to_string()
}
