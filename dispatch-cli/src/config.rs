//! From the command line to pipelines that are read and not yet built.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use dispatch_core::{
    Registry,
    config::{Diagnostics, LoadedPipeline, Loader, Override},
};
use serde_json::Value;

use crate::{
    env_file,
    failure::{Failure, Result},
    files::{matching, within},
    output::Color,
};

/// Where the configuration is, and what is laid over it.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ConfigArgs {
    /// Pipeline files; by default $DISPATCH_CONFIG, else ./dispatch.toml, $XDG_CONFIG_HOME/dispatch/dispatch.toml or
    /// /etc/dispatch/dispatch.toml
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// A pipeline file, as FILE; or a pattern of some, such as 'pipelines/*.toml'
    #[arg(short, long = "config", value_name = "FILE")]
    pub(crate) config: Vec<PathBuf>,
    /// Every pipeline file in a directory
    #[arg(short = 'C', long, value_name = "DIR")]
    pub(crate) config_dir: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) over: OverArgs,
}

/// What is laid over the files.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct OverArgs {
    /// Lay a setting over the file, such as layers.timeout=10s; over DISPATCH__LAYERS__TIMEOUT too
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// A file of NAME=VALUE lines for ${NAME} in the files; the environment goes before it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
}

/// A file's text under its name.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A file and what it says.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) file: String,
    pub(crate) pipeline: LoadedPipeline,
    /// The file as `dispatch echo` prints it, where the admin server may be asked for it.
    pub(crate) shown: Option<Arc<Value>>,
}

impl ConfigArgs {
    /// The files to read: those named, else the first that is there.
    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>> {
        let mut named = Vec::new();
        for path in self.files.iter().chain(&self.config) {
            named.extend(matching(path)?);
        }
        for directory in &self.config_dir {
            named.extend(within(directory, false)?);
        }
        if !named.is_empty() {
            return Ok(once(named));
        }
        if let Some(path) = std::env::var_os("DISPATCH_CONFIG").filter(|path| !path.is_empty()) {
            return matching(Path::new(&path));
        }
        let places = default_places();
        if let Some(path) = places.iter().find(|path| path.exists()) {
            return Ok(vec![path.clone()]);
        }
        let places: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
        Err(Failure::config(format!(
            "no pipeline file: name one, set DISPATCH_CONFIG, or create one of {}",
            places.join(", ")
        )))
    }

    /// Reads the files' texts.
    pub(crate) fn texts(&self) -> Result<Vec<Text>> {
        self.paths()?.iter().map(|path| read_text(path)).collect()
    }
}

/// Each file once, though several patterns may find it.
fn once(paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut seen = std::collections::BTreeSet::new();
    let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    paths.into_iter().filter(|path| seen.insert(real(path))).collect()
}

fn default_places() -> Vec<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".config"));
    let user = std::env::var_os("XDG_CONFIG_HOME")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(home);
    let mut places = vec![PathBuf::from("dispatch.toml")];
    places.extend(user.map(|user| user.join("dispatch/dispatch.toml")));
    places.push("/etc/dispatch/dispatch.toml".into());
    places
}

/// Reads one file, or says why it cannot be a pipeline.
pub(crate) fn read_text(path: &Path) -> Result<Text> {
    let name = path.display().to_string();
    if path.is_dir() {
        return Err(Failure::config(format!(
            "{name} is a directory: name the pipeline files in it, such as {}",
            path.join("*.toml").display()
        )));
    }
    let bytes = std::fs::read(path).map_err(|error| Failure::config(format!("cannot read {name}: {error}")))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Text { name, text }),
        Err(error) => {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
            Err(Failure::config(format!("{name} is not UTF-8 text: see line {line}")))
        }
    }
}

impl OverArgs {
    /// The environment of the process over that of the files named.
    pub(crate) fn environment(&self) -> Result<BTreeMap<String, String>> {
        let mut variables = BTreeMap::new();
        for path in &self.env_file {
            variables.extend(env_file::read(path)?);
        }
        for (name, value) in std::env::vars_os() {
            if let (Some(name), Some(value)) = (name.to_str(), value.to_str()) {
                variables.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(variables)
    }

    /// `DISPATCH__SECTION__KEY` variables, then `--set`.
    pub(crate) fn overrides(&self, environment: &BTreeMap<String, String>) -> Result<Vec<Override>> {
        let mut overrides: Vec<_> = environment
            .iter()
            .filter_map(|(name, value)| {
                let path = name.strip_prefix("DISPATCH__").filter(|path| !path.is_empty())?;
                Some(Override {
                    path: path.to_lowercase().replace("__", "."),
                    value: value.clone(),
                    origin: name.clone(),
                })
            })
            .collect();
        for set in &self.set {
            let Some((path, value)) = set.split_once('=').filter(|(path, _)| !path.trim().is_empty()) else {
                return Err(Failure::usage(format!(
                    "--set {set}: write KEY=VALUE, such as --set layers.timeout=10s"
                )));
            };
            overrides.push(Override {
                path: path.trim().to_owned(),
                value: value.to_owned(),
                origin: "--set".to_owned(),
            });
        }
        Ok(overrides)
    }

    /// A loader for files under these settings.
    pub(crate) fn loader<'r>(&self, registry: &'r Registry) -> Result<Loader<'r>> {
        let environment = self.environment()?;
        let overrides = self.overrides(&environment)?;
        Ok(Loader::new(registry).environment(environment).overrides(overrides))
    }
}

/// Reads every file, or says all that is wrong with all of them.
pub(crate) fn load(args: &ConfigArgs, registry: &Registry, color: Color) -> Result<Vec<Loaded>> {
    load_texts(args.texts()?, &args.over.loader(registry)?, color)
}

/// Reads every text, or says all that is wrong with all of them.
pub(crate) fn load_texts(texts: Vec<Text>, loader: &Loader<'_>, color: Color) -> Result<Vec<Loaded>> {
    let mut loaded = Vec::new();
    let mut mistakes = Vec::new();
    for Text { name, text } in &texts {
        match loader.load(name, text) {
            Ok(pipeline) => {
                if !pipeline.warnings.0.is_empty() {
                    crate::output::note(&pipeline.warnings.render(color.on_stderr()));
                }
                loaded.push(Loaded {
                    file: name.clone(),
                    pipeline,
                    shown: None,
                });
            }
            Err(diagnostics) => mistakes.push(diagnostics),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistaken(mistakes, color));
    }
    if let Some(words) = two_of_a_name(&loaded) {
        return Err(Failure::config(words));
    }
    if loaded.iter().any(|one| one.pipeline.admin.debug) {
        for (one, Text { name, text }) in loaded.iter_mut().zip(&texts) {
            let shown = loader.echo(name, text);
            one.shown = Some(Arc::new(shown.map_err(|wrong| mistaken([wrong], color))?));
        }
    }
    Ok(loaded)
}

/// Mistakes of files as a failure.
pub(crate) fn mistaken(mistakes: impl IntoIterator<Item = Diagnostics>, color: Color) -> Failure {
    let mut text = String::new();
    let mut count = 0;
    for diagnostics in mistakes {
        count += diagnostics.0.iter().filter(|diagnostic| !diagnostic.warning).count();
        text.push_str(&diagnostics.render(color.on_stderr()));
        text.push_str("\n\n");
    }
    text.push_str(&crate::run::plural(count as u64, "mistake"));
    Failure::config(text)
}

fn two_of_a_name(loaded: &[Loaded]) -> Option<String> {
    loaded.iter().enumerate().find_map(|(at, one)| {
        let other = loaded[..at]
            .iter()
            .find(|other| other.pipeline.name == one.pipeline.name)?;
        Some(format!(
            "{} and {} are both named \"{}\": give one of them another `name`",
            other.file, one.file, one.pipeline.name
        ))
    })
}
