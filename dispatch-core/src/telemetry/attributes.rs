//! Names of what spans carry. Where OpenTelemetry's semantic conventions for messaging have a name, it is theirs.

/// What kind of system the messages come from or go to: `aws_sqs`, `postgresql`, `dispatch`, …; text.
pub const SYSTEM: &str = "messaging.system";
/// The queue, the channel or the pipeline; text.
pub const DESTINATION: &str = "messaging.destination.name";
/// What is done, by the name in [`process`](PROCESS) and [`send`](SEND); text.
pub const OPERATION_NAME: &str = "messaging.operation.name";
/// What kind of thing is done: `process` or `send`; text.
pub const OPERATION_TYPE: &str = "messaging.operation.type";
/// The message's id; text.
pub const MESSAGE_ID: &str = "messaging.message.id";
/// The payload's size; bytes.
pub const BODY_SIZE: &str = "messaging.message.body.size";
/// How many messages one call has; messages.
pub const BATCH_COUNT: &str = "messaging.batch.message_count";
/// Why it failed: the error's code, or its class where it has none; text.
pub const ERROR_TYPE: &str = "error.type";
/// The pipeline's source by its label; text.
pub const SOURCE: &str = "dispatch.source";
/// Which attempt this is, from 1 over every delivery of the message; attempts.
pub const ATTEMPT: &str = "dispatch.attempt";
/// How an error was classed: `retry`, `throttled`, `unavailable`, `permanent`; text.
pub const CLASS: &str = "dispatch.error.class";
/// How long an attempt took; seconds.
pub const DURATION: &str = "dispatch.attempt.duration";
/// What an error says; text.
pub const MESSAGE: &str = "exception.message";

/// The event of an attempt that failed, on the span of its message.
pub const ATTEMPT_FAILED: &str = "attempt failed";

/// The operation of a message on its way through the layers.
pub const PROCESS: &str = "process";
/// The operation of one call that carries several messages.
pub const SEND: &str = "send";
