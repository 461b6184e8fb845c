//! Dead-letter queues of SQS: what waits in one, and moving it back.
//!
//! ```no_run
//! use dispatch_sources::sqs::{SqsSourceConfig, redrive::DeadLetters};
//!
//! # async fn example() -> Result<(), dispatch_sources::sqs::SqsError> {
//! let config = SqsSourceConfig::new("https://sqs.eu-west-1.amazonaws.com/123456789012/orders-dead");
//! let letters = DeadLetters::open(&config).await?;
//! println!("{} wait", letters.waiting());
//! letters.redrive(None, Some(50)).await?;
//! # Ok(())
//! # }
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_sqs::types::QueueAttributeName;

use dispatch_sqs_client::{Queue, SqsError, judge};

use super::SqsSourceConfig;

/// A dead-letter queue.
#[derive(Debug)]
pub struct DeadLetters {
    queue: Queue,
    arn: String,
    waiting: u64,
}

/// Messages on their way out of a dead-letter queue, now or lately.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Move {
    /// What a cancel names; only while it runs.
    pub handle: Option<String>,
    /// `RUNNING`, `COMPLETED`, `CANCELLING`, `CANCELLED` or `FAILED`.
    pub status: String,
    /// Where they go; none: to the queues they came from.
    pub destination: Option<String>,
    /// Moved so far, about.
    pub moved: u64,
    /// To be moved in all, about.
    pub total: Option<u64>,
    /// At most so many a second.
    pub rate: Option<u32>,
    /// When it began.
    pub started: Option<SystemTime>,
    /// Why it failed.
    pub failure: Option<String>,
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

impl DeadLetters {
    /// Connects to the queue that `config` names and asks for its attributes; nothing else of `config` matters.
    ///
    /// # Errors
    /// Of every class: no connection, no such queue, no right to ask (`sqs:GetQueueAttributes`).
    pub async fn open(config: &SqsSourceConfig) -> Result<Self, SqsError> {
        config.check().map_err(|mistake| SqsError::Setup {
            queue: config.queue_url.clone().unwrap_or_default(),
            message: mistake.to_string(),
        })?;
        let queue = Box::pin(config.place().connect(None)).await?;
        let asked = queue
            .sqs
            .get_queue_attributes()
            .queue_url(&queue.url)
            .attribute_names(QueueAttributeName::QueueArn)
            .attribute_names(QueueAttributeName::ApproximateNumberOfMessages);
        let answer = asked.send().await;
        let answer = answer.map_err(|error| judge("GetQueueAttributes", queue.name(), error))?;
        let attributes = answer.attributes.unwrap_or_default();
        let arn = attributes.get(&QueueAttributeName::QueueArn).cloned();
        let arn = arn.ok_or_else(|| SqsError::Setup {
            queue: queue.url.clone(),
            message: "the server does not say the queue's ARN".to_owned(),
        })?;
        let waiting = attributes.get(&QueueAttributeName::ApproximateNumberOfMessages);
        Ok(Self {
            waiting: waiting.and_then(|count| count.parse().ok()).unwrap_or_default(),
            queue,
            arn,
        })
    }

    /// How many messages were in the queue when it was opened, about.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.waiting
    }

    /// The latest moves out of it, newest first, at most 10.
    ///
    /// # Errors
    /// Of every class; `Unavailable` where the queue is nobody's dead-letter queue.
    pub async fn moves(&self) -> Result<Vec<Move>, SqsError> {
        let asked = self
            .queue
            .sqs
            .list_message_move_tasks()
            .source_arn(&self.arn)
            .max_results(10);
        let answer = asked
            .send()
            .await
            .map_err(|error| self.judge("ListMessageMoveTasks", error))?;
        let entries = answer.results.unwrap_or_default().into_iter();
        let read = |entry: aws_sdk_sqs::types::ListMessageMoveTasksResultEntry| Move {
            moved: unsigned(entry.approximate_number_of_messages_moved),
            total: entry.approximate_number_of_messages_to_move.map(unsigned),
            rate: entry
                .max_number_of_messages_per_second
                .and_then(|rate| u32::try_from(rate).ok()),
            started: UNIX_EPOCH.checked_add(Duration::from_millis(unsigned(entry.started_timestamp))),
            status: entry.status.unwrap_or_default(),
            handle: entry.task_handle,
            destination: entry.destination_arn,
            failure: entry.failure_reason,
        };
        Ok(entries.map(read).collect())
    }

    /// Starts to move everything to `destination` (an ARN), or back to where it came from; at most `rate` a second, 1
    /// to 500. The handle of the move.
    ///
    /// # Errors
    /// Of every class; `Unavailable` where a move runs already.
    pub async fn redrive(&self, destination: Option<&str>, rate: Option<u32>) -> Result<String, SqsError> {
        let request = self
            .queue
            .sqs
            .start_message_move_task()
            .source_arn(&self.arn)
            .set_destination_arn(destination.map(str::to_owned))
            .set_max_number_of_messages_per_second(rate.and_then(|rate| i32::try_from(rate).ok()));
        let answer = request
            .send()
            .await
            .map_err(|error| self.judge("StartMessageMoveTask", error))?;
        Ok(answer.task_handle.unwrap_or_default())
    }

    /// Ends a move; what has gone stays gone. How many went, about.
    ///
    /// # Errors
    /// Of every class; `Unavailable` where no such move runs.
    pub async fn cancel(&self, handle: &str) -> Result<u64, SqsError> {
        let request = self.queue.sqs.cancel_message_move_task().task_handle(handle);
        let answer = request
            .send()
            .await
            .map_err(|error| self.judge("CancelMessageMoveTask", error))?;
        Ok(unsigned(answer.approximate_number_of_messages_moved))
    }

    fn judge<E>(
        &self,
        operation: &'static str,
        error: aws_sdk_sqs::error::SdkError<E, aws_sdk_sqs::config::http::HttpResponse>,
    ) -> SqsError
    where
        E: aws_sdk_sqs::error::ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        judge(operation, self.queue.name(), error)
    }
}
