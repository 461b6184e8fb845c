//! `dispatch lint`: every mistake of every file, without touching anything else.

mod annotations;
mod sarif;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use dispatch_core::{
    Registry,
    config::{Diagnostics, Loader},
};
use serde_json::json;

use self::{annotations::annotation, sarif::sarif};
use crate::{
    config::{OverArgs, read_text},
    failure::{FAILED, Result},
    files::{matching, within},
    global::Global,
    output::{print, print_json},
    run::plural,
};

/// Find mistakes in pipeline files without connecting to anything
///
/// Exit codes: 0 nothing found, 1 mistakes found, 78 a file that cannot be read.
#[derive(Debug, Args)]
pub(crate) struct Lint {
    /// Files, directories (the pipeline files in them), or DIR/... (those below it as well)
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// How to print what is found
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Do not ask for variables and files that are only set where the pipeline runs
    #[arg(long)]
    skip_env_check: bool,
    /// Take warnings for mistakes
    #[arg(long)]
    deny_warnings: bool,
    #[command(flatten)]
    over: OverArgs,
}

/// How findings look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// With the lines they stand in.
    Text,
    /// One JSON object.
    Json,
    /// As SARIF 2.1.0, for code scanning.
    Sarif,
    /// As annotations of a GitHub workflow.
    Github,
}

impl Lint {
    pub(super) fn execute(self, global: &Global, registry: &Registry) -> Result {
        let loader = self.over.loader(registry)?.lenient(self.skip_env_check);
        let files = self.files()?;
        let mut findings = Vec::new();
        for file in &files {
            let text = read_text(file)?;
            findings.extend(findings_in(&loader, &text.name, &text.text).0);
        }
        let bad = findings.iter().any(|finding| self.deny_warnings || !finding.warning);
        let format = if global.json { Format::Json } else { self.format };
        match format {
            Format::Json => print_json(&json!({ "files": files.len(), "findings": findings }))?,
            Format::Sarif => print_json(&sarif(&findings))?,
            Format::Github => findings.iter().try_for_each(|finding| print(&annotation(finding)))?,
            Format::Text => {
                let rendered = Diagnostics(findings.clone()).render(global.color.on_stdout());
                let checked = plural(files.len() as u64, "file");
                if findings.is_empty() {
                    print(&format!("{checked}, no mistakes"))?;
                } else {
                    print(&format!(
                        "{rendered}\n\n{checked}, {}",
                        plural(findings.len() as u64, "finding")
                    ))?;
                }
            }
        }
        Ok(if bad { FAILED } else { 0 })
    }

    /// The files that the paths name.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for path in &self.paths {
            if path.file_name().is_some_and(|name| name == "...") {
                let below = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                files.extend(within(below.unwrap_or(Path::new(".")), true)?);
            } else if path.is_dir() {
                files.extend(within(path, false)?);
            } else {
                files.extend(matching(path)?);
            }
        }
        Ok(files)
    }
}

/// Everything wrong with one file: what reading finds, and if that is nothing, what building finds.
fn findings_in(loader: &Loader<'_>, name: &str, text: &str) -> Diagnostics {
    let mut loaded = match loader.load(name, text) {
        Ok(loaded) => loaded,
        Err(diagnostics) => return diagnostics,
    };
    let mut findings = loaded.warnings.clone();
    let built = loaded.build_store().and_then(|store| loaded.build(&store).map(drop));
    findings.0.extend(built.err().into_iter().flat_map(|more| more.0));
    findings
}
