//! Log lines on standard error, text for people and JSON for machines.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write},
    sync::OnceLock,
    time::SystemTime,
};

use indicatif::MultiProgress;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, format::Writer, time::FormatTime},
    reload,
};

use crate::{
    failure::Failure,
    global::{Global, LogFormat},
};

/// Standard error, with the live lines out of the way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Screen(pub(crate) Option<MultiProgress>);

impl Screen {
    /// Live lines, where somebody is there to see them.
    pub(crate) fn live(global: &Global) -> Self {
        let wanted = global.log_format != Some(LogFormat::Json) && global.quiet == 0 && io::stderr().is_terminal();
        Self(wanted.then(MultiProgress::new))
    }
}

/// One log line.
#[derive(Debug)]
pub(crate) struct Line(Screen);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0.0 {
            Some(live) => live.suspend(|| io::stderr().write_all(bytes))?,
            None => io::stderr().write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self.clone())
    }
}

/// The time in whole seconds: nobody reads more of it on a terminal.
struct Seconds;

impl FormatTime for Seconds {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", humantime::format_rfc3339_seconds(SystemTime::now()))
    }
}

/// Libraries whose every step is nobody's news.
const CALM: &str =
    "h2=warn,hyper=warn,hyper_util=warn,rustls=warn,sea_orm=warn,sea_orm_migration=warn,sqlx=warn,tower=warn";

fn filter(global: &Global) -> Result<EnvFilter, Failure> {
    let steps = i16::from(global.verbose) - i16::from(global.quiet);
    let level = match (&global.log_level, steps) {
        (Some(level), _) => level.as_str(),
        (None, 0) => match std::env::var("RUST_LOG") {
            Ok(directives) if !directives.is_empty() => {
                return EnvFilter::try_new(&directives)
                    .map_err(|error| Failure::usage(format!("RUST_LOG: \"{directives}\": {error}")));
            }
            _ => "info",
        },
        (None, 1) => "debug",
        (None, 2..) => "trace",
        (None, -1) => "warn",
        (None, _) => "error",
    };
    // A level by itself is that of our own code; directives are taken as they are.
    let directives = if level.contains(['=', ',']) {
        level.to_owned()
    } else {
        format!("{level},{CALM}")
    };
    EnvFilter::try_new(&directives).map_err(|error| Failure::usage(format!("--log-level {level}: {error}")))
}

/// Starts logging; the live lines of `screen` stay whole.
pub(crate) fn start(global: &Global, screen: &Screen) -> Result<(), Failure> {
    let format = global.log_format.unwrap_or(if io::stderr().is_terminal() {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(global)?)
        .with_writer(screen.clone());
    match format {
        LogFormat::Json => {
            let builder = builder
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_filter_reloading();
            remember(builder.reload_handle());
            builder.try_init()
        }
        LogFormat::Text => {
            let builder = builder
                .compact()
                .with_timer(Seconds)
                .with_target(false)
                .with_ansi(global.color.on_stderr())
                .with_filter_reloading();
            remember(builder.reload_handle());
            builder.try_init()
        }
    }
    .map_err(|error| Failure::run(format!("cannot log: {error}")))
}

/// Changes the filter of the log that was started.
static RELOAD: OnceLock<Box<dyn Fn(EnvFilter) -> bool + Send + Sync>> = OnceLock::new();

fn remember<S: 'static>(handle: reload::Handle<EnvFilter, S>) {
    // A second log is refused right after: the first one's handle stays.
    let _first = RELOAD.set(Box::new(move |filter| handle.reload(filter).is_ok()));
}

/// Sets the level by Python's name for it. Answers Python's name of the level before, and whether it was set.
pub(crate) fn level_now_and(python: &str) -> (String, bool) {
    let before = match LevelFilter::current() {
        LevelFilter::OFF | LevelFilter::ERROR => "ERROR",
        LevelFilter::WARN => "WARNING",
        LevelFilter::INFO => "INFO",
        LevelFilter::DEBUG | LevelFilter::TRACE => "DEBUG",
    };
    let level = match python {
        "WARNING" => "warn",
        "CRITICAL" | "ERROR" => "error",
        "INFO" => "info",
        _ => "debug",
    };
    let filter = EnvFilter::try_new(format!("{level},{CALM}"));
    let set = filter.is_ok_and(|filter| RELOAD.get().is_some_and(|reload| reload(filter)));
    (before.to_owned(), set)
}
