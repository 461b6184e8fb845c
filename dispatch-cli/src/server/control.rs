//! `/v1/`: seeing and steering pipelines.

use axum::{
    Json,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use dispatch_core::pipeline::Handle;
use serde::Deserialize;
use serde_json::json;

use super::refuse;
use crate::run::{Board, Member};

/// Which pipelines; all if none is named.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    pipeline: Option<String>,
}

impl Which {
    pub(super) fn of(&self, board: &Board) -> Result<Vec<Member>, Box<Response>> {
        let all = board.members();
        let chosen: Vec<_> = all
            .iter()
            .filter(|member| self.pipeline.as_ref().is_none_or(|name| member.handle.name() == name))
            .cloned()
            .collect();
        if chosen.is_empty() {
            let names: Vec<_> = all.iter().map(|member| member.handle.name().as_str()).collect();
            let words = format!("no such pipeline; there are: {}", names.join(", "));
            return Err(refuse(StatusCode::NOT_FOUND, &words).into());
        }
        Ok(chosen)
    }
}

pub(super) async fn status(State(board): State<Board>, Query(which): Query<Which>) -> Response {
    steer(&board, &which, |_| ())
}

pub(super) async fn pause(State(board): State<Board>, Query(which): Query<Which>) -> Response {
    steer(&board, &which, Handle::pause)
}

pub(super) async fn resume(State(board): State<Board>, Query(which): Query<Which>) -> Response {
    steer(&board, &which, Handle::resume)
}

pub(super) async fn drain(State(board): State<Board>, Query(which): Query<Which>) -> Response {
    steer(&board, &which, Handle::drain)
}

/// Does it to each, and answers with how each is then.
fn steer(board: &Board, which: &Which, act: impl Fn(&Handle)) -> Response {
    match which.of(board) {
        Ok(members) => {
            members.iter().for_each(|member| act(&member.handle));
            let all: Vec<_> = members.iter().map(|member| member.handle.status()).collect();
            Json(json!({ "pipelines": all })).into_response()
        }
        Err(response) => *response,
    }
}
