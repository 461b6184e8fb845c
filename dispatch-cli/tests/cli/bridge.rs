//! What pages say about notifications and PostgreSQL, done as it stands there.

use std::path::Path;

use rustix::process::Signal;

use crate::{
    dispatcherd::Project,
    postgres::Schema,
    support::{Running, command, until},
};

/// The blocks of one section of a page.
fn blocks(page: &str, section: &str, language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = std::fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(&format!("\n## {section}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let begin = format!("```{language}\n");
    let blocks = section.split(&begin).skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

/// The bridge alone takes in, and is killed; both together work off.
#[tokio::test]
async fn the_bridge_keeps_what_it_has_heard_and_waits_for_a_delay_once() {
    let test = "the_bridge_keeps_what_it_has_heard_and_waits_for_a_delay_once";
    let Some(project) = Project::new(test, "") else { return };
    let url = std::env::var("DISPATCH_TEST_POSTGRES_URL").unwrap();
    let python = std::env::var("DISPATCH_TEST_PYTHON").unwrap();
    let schema = Schema::new(&url).await;
    let files = blocks("sources/pg_notify.md", "Into a durable queue", "toml");
    for (name, text) in ["bridge.toml", "work.toml"].into_iter().zip(&files) {
        let text = text.replace("\"app_tasks\"", &format!("{:?}", project.channel()));
        std::fs::write(project.path().join(name), text).unwrap();
    }
    let path = Path::new(&python).parent().unwrap().display().to_string();
    let path = format!("{path}:{}", std::env::var("PATH").unwrap_or_default());
    let start = |files: &[&str]| {
        let schema = format!("store.schema={}", schema.name);
        let more = ["--set", &schema, "--set", "admin.listen=off"];
        let mut run = command(project.path(), &[&["run"], files, &more].concat());
        let run = project.surroundings(&mut run).env("DATABASE_URL", &url);
        Running::spawn(run.env("PATH", &path))
    };
    let mut bridge = start(&["bridge.toml"]);
    bridge.says("\"listening\"").await;

    project.publish(
        "from dispatcherd.factories import get_publisher_from_settings\n\
         text = '{\"task\": \"my_tasks.add\", \"args\": [7], \"delay\": 0.5, \"uuid\": \"later\"}'\n\
         get_publisher_from_settings().publish_message(channel=CHANNEL, message=text)\n\
         add.delay(1)",
    );

    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    // Whether each may be claimed at once, the first first.
    let kept = async || {
        let due = "SELECT run_at <= extract(epoch FROM clock_timestamp()) * 1e6";
        let sql = format!("{due} FROM {}.dispatch_ready ORDER BY id", schema.name);
        let rows = client.query(&sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<bool>>()
    };
    until("both are in the queue", async || kept().await.len() == 2).await;
    assert_eq!(kept().await, [true, true], "neither waits again");
    bridge.kill();
    let mut both = start(&["bridge.toml", "work.toml"]);
    both.says("\"listening\"").await;
    project.publish("add.delay(2)");
    for note in ["1", "7", "2"] {
        project.noted(note).await;
    }

    until("the queue is empty", async || kept().await.is_empty()).await;
    both.signal(Signal::TERM);
    assert_eq!(both.ends().await, 0, "{:#?}", both.log());
    assert_eq!(project.notes().len(), 3, "each once: {:?}", project.notes());
    schema.drop().await;
}

#[tokio::test]
async fn the_statements_for_watching_answer() {
    let Some(url) = crate::postgres::url("the_statements_for_watching_answer") else {
        return;
    };
    let schema = Schema::new(&url).await;
    let text = format!(
        "name = \"p\"\n[source]\ntype = \"queue\"\nqueue = \"watched\"\n[sink]\ntype = \"stdout\"\n\
         [store]\ntype = \"postgres\"\nurl = \"{url}\"\nschema = \"{}\"\n[admin]\nlisten = \"off\"\n",
        schema.name
    );
    let dir = crate::support::dir(&[("p.toml", &text)]);
    let sent = crate::support::dispatch(dir.path(), &["send", "p.toml", "--payload", "x"]);
    assert_eq!(sent.code, 0, "{sent:?}");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
        .batch_execute(&format!(
            "SET search_path TO {}; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1",
            schema.name
        ))
        .await
        .unwrap();
    let [tables, holders, waiting] = blocks("stores/postgres.md", "Watching it", "sql").try_into().unwrap();

    let tables = client.query(&tables, &[]).await.unwrap();
    let names: Vec<&str> = tables.iter().map(|row| row.get(0)).collect();
    for name in ["dispatch_item", "dispatch_ready", "dispatch_lease"] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(
        tables
            .iter()
            .all(|row| row.get::<_, Option<i64>>("n_dead_tup").is_some())
    );
    let holders = client.query(&holders, &[]).await.unwrap();
    assert!(!holders.is_empty(), "this transaction holds vacuum up itself");
    let waiting = client.query_one(&waiting, &[]).await.unwrap();
    assert_eq!((waiting.get(0), waiting.get(1)), ("watched", 1_i64));
    client.batch_execute("ROLLBACK").await.unwrap();
    schema.drop().await;
}
