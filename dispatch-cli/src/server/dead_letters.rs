//! `/v1/dlq`: messages that were given up on.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use dispatch_core::{Error, Store, config::Rate};
use serde::Deserialize;
use serde_json::json;

use super::refuse;
use crate::{
    letters::{self, Selection},
    run::Board,
};

/// Which letters, and what to do with them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Asked {
    pipeline: Option<String>,
    class: Option<String>,
    code: Option<String>,
    reason: Option<String>,
    since: Option<String>,
    until: Option<String>,
    /// Numbers, with commas between them.
    id: Option<String>,
    replayed: bool,
    after: u64,
    limit: Option<usize>,
    rate: Option<Rate>,
    dry_run: bool,
}

/// The most letters in one answer.
const PAGE: usize = 100;

fn failed(error: &Error) -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, &error.report())
}

impl Asked {
    fn selection(&self) -> Result<Selection, Box<Response>> {
        let wrong = |words: String| Box::new(refuse(StatusCode::BAD_REQUEST, &words));
        let numbers = self.id.iter().flat_map(|ids| ids.split(','));
        let numbers: Result<Vec<u64>, _> = numbers.map(|id| id.trim().parse()).collect();
        let time = |text: &Option<String>| text.as_deref().map(letters::parse_time).transpose().map_err(wrong);
        Ok(Selection {
            pipeline: self.pipeline.clone(),
            class: self.class.clone(),
            code: self.code.clone(),
            reason: self.reason.clone(),
            since: time(&self.since)?,
            until: time(&self.until)?,
            id: numbers.map_err(|_| wrong("`id` is a number, or several with commas between them".to_owned()))?,
            replayed: self.replayed,
        })
    }

    /// The store meant: that of the pipeline, or the only one.
    fn store(&self, board: &Board) -> Result<Arc<dyn Store>, Box<Response>> {
        let members = board.members();
        if let Some(name) = &self.pipeline
            && let Some(member) = members.iter().find(|member| member.handle.name() == name)
        {
            return Ok(Arc::clone(&member.store));
        }
        match members.split_first() {
            Some((first, rest)) if rest.iter().all(|other| Arc::ptr_eq(&other.store, &first.store)) => {
                Ok(Arc::clone(&first.store))
            }
            _ => Err(refuse(
                StatusCode::BAD_REQUEST,
                "these pipelines have several stores; choose one with ?pipeline=NAME",
            )
            .into()),
        }
    }
}

pub(super) async fn list(State(board): State<Board>, Query(asked): Query<Asked>) -> Response {
    let (store, selection) = match (asked.store(&board), asked.selection()) {
        (Ok(store), Ok(selection)) => (store, selection),
        (Err(response), _) | (_, Err(response)) => return *response,
    };
    let filter = selection.filter();
    let limit = asked.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let found = async {
        let matched = store.dead_letters().count(&filter).await?;
        Ok::<_, Error>((matched, store.dead_letters().list(&filter, asked.after, limit).await?))
    };
    match found.await {
        Ok((matched, found)) => {
            let next = found
                .last()
                .filter(|_| found.len() == limit)
                .map(|letter| letter.number);
            let letters: Vec<_> = found.iter().map(letters::view).collect();
            Json(json!({ "matched": matched, "letters": letters, "next": next })).into_response()
        }
        Err(error) => failed(&error),
    }
}

pub(super) async fn show(State(board): State<Board>, Path(number): Path<u64>, Query(asked): Query<Asked>) -> Response {
    let store = match asked.store(&board) {
        Ok(store) => store,
        Err(response) => return *response,
    };
    match letters::one(&*store, number).await {
        Ok(Some(letter)) => Json(letters::view(&letter)).into_response(),
        Ok(None) => refuse(StatusCode::NOT_FOUND, "no dead letter has this number"),
        Err(error) => failed(&error),
    }
}

pub(super) async fn replay(State(board): State<Board>, Query(asked): Query<Asked>) -> Response {
    act(&board, &asked, true).await
}

pub(super) async fn purge(State(board): State<Board>, Query(asked): Query<Asked>) -> Response {
    act(&board, &asked, false).await
}

async fn act(board: &Board, asked: &Asked, replay: bool) -> Response {
    let (store, selection) = match (asked.store(board), asked.selection()) {
        (Ok(store), Ok(selection)) => (store, selection),
        (Err(response), _) | (_, Err(response)) => return *response,
    };
    let filter = selection.filter();
    let done = async {
        let matched = store.dead_letters().count(&filter).await?;
        let done = match (asked.dry_run, replay) {
            (true, _) => 0,
            (false, true) => letters::replay(&*store, &filter, asked.rate, |_| ()).await?,
            (false, false) => store.dead_letters().purge(&filter).await?,
        };
        Ok::<_, Error>((matched, done))
    };
    let word = if replay { "replayed" } else { "purged" };
    match done.await {
        Ok((matched, done)) => {
            Json(json!({ "matched": matched, word: done, "dry_run": asked.dry_run })).into_response()
        }
        Err(error) => failed(&error),
    }
}
