//! Messages in pieces, of which the rest never comes.

use dispatch_core::config::SourceConfig as _;
use dispatch_sources::pg_notify::PgNotifySourceConfig;
use serde_json::{Value, json};

use super::{
    pg_notify::{Wire, next},
    pg_notify_panics::Meter,
    *,
};

#[tokio::test]
async fn more_than_64_mib_of_pieces_is_refused_oldest_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dispatch.sock");
    let config = json!({ "control": { "socket": path, "node_id": "node" }, "on_start": [{ "task": "a.start" }] });
    let config: PgNotifySourceConfig = serde_json::from_value(config).unwrap();
    let context = context(directory.path(), memory());
    let mut source = config.build(&context).unwrap();
    ack(next(&mut *source).await).await;
    let mut wire = Wire::to(&path).await;

    let payload = "x".repeat(1_000_000);
    for number in 0..70 {
        let line = format!(
            r#"{{"__dispatcherd_chunk__":"v1","message_id":"m{number}","index":0,"total":2,"payload":"{payload}"}}"#
        );
        wire.write_raw(&(line + "\n")).await;
    }
    wire.write(&[r#"{"control": "chunks", "reply_to": "me"}"#]).await;
    let chunks: Value = wire.answer().await;

    // 67 of them are less than 64 MiB.
    let (status, partials) = (&chunks["status"], &chunks["partials"]);
    assert_eq!(
        (&status["active_messages"], &status["errored_assemblies"]),
        (&json!(67), &json!(3))
    );
    let waits = |id: &str| partials.get(id).is_some();
    assert_eq!(["m0", "m2", "m3", "m69"].map(waits), [false, false, true, true]);
    assert_eq!(Meter(&context.meter).counted("dispatch_tasks_rejected_total"), 3);
    source.close().await.unwrap();
}
