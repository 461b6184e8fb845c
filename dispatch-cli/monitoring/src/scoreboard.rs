//! What is being worked on, over gRPC.

use std::sync::Arc;

use dispatch_core::pipeline::{Handle, InProgress};
use tonic::{Request, Response, Status};

use crate::proto::{
    CurrentWorkingsRequest, CurrentWorkingsResponse, Task, monitoring_service_server::MonitoringService,
};

/// The pipelines that are watched together.
#[derive(Debug, Clone)]
pub(crate) struct Scoreboard(pub(crate) Arc<[Handle]>);

impl Scoreboard {
    /// What is being worked on, the oldest first.
    pub(crate) async fn in_progress(&self) -> Vec<InProgress> {
        let mut all = Vec::new();
        for pipeline in self.0.iter() {
            all.extend(pipeline.in_progress().await);
        }
        all.sort_by_key(|one| one.started_at);
        all
    }
}

/// What its source knows the delivery by: a receipt handle where there is one.
pub(crate) fn receipt(one: &InProgress) -> String {
    match one.message.metadata().get("sqs_receipt_handle") {
        Some(handle) => handle.to_owned(),
        None if one.token.handle.is_empty() => format!("{}:{}", one.token.number, one.token.fence),
        None => String::from_utf8_lossy(&one.token.handle).into_owned(),
    }
}

#[tonic::async_trait]
impl MonitoringService for Scoreboard {
    async fn current_workings(
        &self,
        _: Request<CurrentWorkingsRequest>,
    ) -> Result<Response<CurrentWorkingsResponse>, Status> {
        let task = |one: InProgress| Task {
            id: one.message.id().to_string(),
            receipt: receipt(&one),
            started_at: Some(one.started_at.into()),
        };
        let tasks = self.in_progress().await.into_iter().map(task).collect();
        Ok(Response::new(CurrentWorkingsResponse { tasks }))
    }
}
