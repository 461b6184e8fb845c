//! `dispatch dlq`: messages that were given up on.

use std::sync::Arc;

use clap::{Args, Subcommand};
use dispatch_core::{Registry, Store, config::Rate, store::DeadLetter};
use indicatif::HumanCount;
use serde_json::{Value, json};

use crate::{
    failure::{Failure, Result},
    global::Global,
    letters::{self, Selection},
    output::{note, print, print_json, print_pretty, table},
    run::plural,
    store::StoreArgs,
};

/// See and replay messages that were given up on
#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// List dead letters, oldest first
    List(List),
    /// Show one dead letter with its payload and every attempt
    Show(Show),
    /// Put dead letters back to work: their pipeline takes them up when it runs
    Replay(Replay),
    /// Delete dead letters
    Purge(Purge),
    /// Print dead letters as JSON lines, payloads byte for byte
    Export(Export),
    /// Move what is in a dead-letter queue of SQS back to where it came from
    #[cfg(feature = "sqs")]
    Redrive(super::redrive::Redrive),
    /// End such a move
    #[cfg(feature = "sqs")]
    Cancel(super::redrive::Cancel),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    place: StoreArgs,
    #[command(flatten)]
    selection: Selection,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    #[cfg(feature = "sqs")]
    #[command(flatten)]
    letters: super::redrive::Maybe,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// Its number, as `dlq list` shows it
    #[arg(value_name = "NUMBER")]
    number: u64,
    #[command(flatten)]
    place: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    place: StoreArgs,
    #[command(flatten)]
    selection: Selection,
    /// At most so many, such as 50/s
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// Only count
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Purge {
    #[command(flatten)]
    place: StoreArgs,
    #[command(flatten)]
    selection: Selection,
    /// Only count
    #[arg(long)]
    dry_run: bool,
    /// Really delete
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    place: StoreArgs,
    #[command(flatten)]
    selection: Selection,
}

impl Dlq {
    pub(super) async fn execute(self, global: &Global, registry: &Registry) -> Result {
        #[cfg(feature = "sqs")]
        match self {
            Self::Redrive(redrive) => return redrive.execute(global).await,
            Self::Cancel(cancel) => return cancel.execute(global).await,
            Self::List(List { letters, .. }) if letters.is_some() => return letters.execute(global).await,
            of_ours => of_ours.execute_in_store(global, registry).await,
        }
        #[cfg(not(feature = "sqs"))]
        self.execute_in_store(global, registry).await
    }

    async fn execute_in_store(self, global: &Global, registry: &Registry) -> Result {
        let place = match &self {
            #[cfg(feature = "sqs")]
            Self::Redrive(_) | Self::Cancel(_) => return Ok(0),
            Self::List(List { place, .. })
            | Self::Show(Show { place, .. })
            | Self::Replay(Replay { place, .. })
            | Self::Purge(Purge { place, .. })
            | Self::Export(Export { place, .. }) => place,
        };
        if let Self::Purge(Purge {
            dry_run: false,
            yes: false,
            ..
        }) = &self
        {
            return Err(Failure::usage(
                "purge deletes for good: add --yes, or --dry-run to count first",
            ));
        }
        let store = place.open(registry, global.color).await?;
        let done = match self {
            Self::List(list) => list.execute(&store, global).await,
            Self::Show(show) => show.execute(&store, global).await,
            Self::Replay(replay) => replay.execute(&store, global).await,
            Self::Purge(purge) => purge.execute(&store, global).await,
            Self::Export(export) => export.execute(&store).await,
            #[cfg(feature = "sqs")]
            Self::Redrive(_) | Self::Cancel(_) => Ok(0),
        };
        store.close().await?;
        done
    }
}

impl List {
    async fn execute(self, store: &Arc<dyn Store>, global: &Global) -> Result {
        let filter = self.selection.filter();
        let matched = store.dead_letters().count(&filter).await?;
        let found = store.dead_letters().list(&filter, 0, self.limit.max(1)).await?;
        if global.json {
            let all: Vec<_> = found.iter().map(letters::view).collect();
            print_json(&json!({ "matched": matched, "letters": all }))?;
            return Ok(0);
        }
        if found.is_empty() {
            print("no dead letters")?;
            return Ok(0);
        }
        let head = ["number", "died", "pipeline", "id", "reason", "attempts", "last error"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(found.iter().map(row));
        print(&table(&rows))?;
        let shown = found.len() as u64;
        if shown < matched {
            note(&format!("{} more; see --limit", HumanCount(matched - shown)));
        }
        Ok(0)
    }
}

/// A letter on one line.
fn row(letter: &DeadLetter) -> Vec<String> {
    let last = letter.attempts.last();
    let error = last.map(|last| {
        // Most errors say their code themselves.
        let code = last.code.as_ref().filter(|code| !last.text.contains(code.as_str()));
        let code = code.map(|code| format!("{code}: ")).unwrap_or_default();
        short(&format!("{code}{}", last.text), 60)
    });
    vec![
        letter.number.to_string(),
        humantime::format_rfc3339_seconds(letter.died_at).to_string(),
        letter.pipeline.to_string(),
        short(&letter.id, 40),
        letter.reason.to_string(),
        letter.attempts.len().to_string(),
        error.unwrap_or_default(),
    ]
}

/// A text cut to what a column holds, without what would break the line.
fn short(text: &str, most: usize) -> String {
    let mut short: String = text
        .chars()
        .take(most)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(most).is_some() {
        short.truncate(short.trim_end().len());
        short.push('…');
    }
    short
}

impl Show {
    async fn execute(self, store: &Arc<dyn Store>, global: &Global) -> Result {
        let Some(letter) = letters::one(&**store, self.number).await? else {
            return Err(Failure::run(format!("there is no dead letter {}", self.number)));
        };
        let view: Value = letters::view(&letter);
        if global.json {
            print_json(&view)?;
        } else {
            print_pretty(&view)?;
        }
        Ok(0)
    }
}

impl Replay {
    async fn execute(self, store: &Arc<dyn Store>, global: &Global) -> Result {
        let filter = self.selection.filter();
        let matched = store.dead_letters().count(&filter).await?;
        let mut replayed = 0;
        if !self.dry_run {
            let result = letters::replay(&**store, &filter, self.rate, |went| replayed = went).await;
            result.map_err(|error| {
                let report = error.report();
                Failure::run(format!(
                    "{report}\n  {replayed} of {matched} went; the same again goes on"
                ))
            })?;
        }
        let words = if self.dry_run {
            format!("would replay {}", plural(matched, "message"))
        } else {
            format!(
                "replayed {}; their pipelines take them up when they run",
                plural(replayed, "message")
            )
        };
        tell(
            global,
            &json!({ "matched": matched, "replayed": replayed, "dry_run": self.dry_run }),
            &words,
        )
    }
}

impl Purge {
    async fn execute(self, store: &Arc<dyn Store>, global: &Global) -> Result {
        let filter = self.selection.filter();
        let matched = store.dead_letters().count(&filter).await?;
        let purged = if self.dry_run {
            0
        } else {
            store.dead_letters().purge(&filter).await?
        };
        let words = if self.dry_run {
            format!("would delete {}", plural(matched, "message"))
        } else {
            format!("deleted {}", plural(purged, "message"))
        };
        tell(
            global,
            &json!({ "matched": matched, "purged": purged, "dry_run": self.dry_run }),
            &words,
        )
    }
}

fn tell(global: &Global, json: &Value, words: &str) -> Result {
    if global.json {
        print_json(json)?;
    } else {
        print(words)?;
    }
    Ok(0)
}

impl Export {
    async fn execute(self, store: &Arc<dyn Store>) -> Result {
        let filter = self.selection.filter();
        let mut after = 0;
        loop {
            let found = store.dead_letters().list(&filter, after, 100).await?;
            let Some(last) = found.last() else { return Ok(0) };
            after = last.number;
            let lines: Vec<_> = found.iter().map(|letter| letters::view(letter).to_string()).collect();
            print(&lines.join("\n"))?;
        }
    }
}
