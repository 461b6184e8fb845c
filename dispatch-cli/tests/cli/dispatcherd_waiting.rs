//! Durable tasks that wait, in the table and on their way to a worker: `running` shows them and `cancel` takes them out.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    dispatcherd_faults::Durable,
    support::{Done, tell, until},
};

/// By the first part of their keys, the ids of the tasks that an answer shows.
type Places = BTreeMap<String, Vec<String>>;

fn places(answer: &Value) -> Places {
    let mut places = Places::new();
    for (key, task) in answer.as_object().unwrap() {
        if let Some((place, _)) = key.rsplit_once('-') {
            let uuid = task["uuid"].as_str().unwrap_or_else(|| panic!("{key}: {task}"));
            places.entry(place.to_owned()).or_default().push(uuid.to_owned());
        }
    }
    places
}

fn count(places: &Places) -> usize {
    places.values().map(Vec::len).sum()
}

impl Durable {
    /// What the original's own client says, as JSON.
    fn dispatcherctl(&self, arguments: &[&str]) -> Value {
        let done: Done = self.project.ctl(arguments);
        assert_eq!(done.code, 0, "{arguments:?}: {done:?}");
        let python = std::env::var("DISPATCH_TEST_PYTHON").unwrap();
        let file = self.project.path().join("answer.yml");
        std::fs::write(&file, &done.out).unwrap();
        let code = "import json, sys, yaml; print(json.dumps(yaml.load(open(sys.argv[1]), \
            getattr(yaml, 'CSafeLoader', yaml.SafeLoader))))";
        let read = crate::support::done(std::process::Command::new(python).args(["-c", code]).arg(&file));
        assert_eq!(read.code, 0, "{read:?}");
        read.json()
    }

    async fn sql(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let path = format!("SET search_path TO {}", self.schema.name);
        client.batch_execute(&path).await.unwrap();
        client
    }
}

async fn rows(client: &tokio_postgres::Client) -> i64 {
    let count = client.query_one("SELECT count(*) FROM dispatch_item", &[]).await;
    count.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatcherctl_shows_and_cancels_durable_tasks_wherever_they_wait() {
    let test = "dispatcherctl_shows_and_cancels_durable_tasks_wherever_they_wait";
    let Some(durable) = Durable::with(test, "").await else {
        return;
    };
    let service = durable.start("node-a", &[]).await;
    durable.publish("sleep.apply_async(args=[600], uuid='long-a'); sleep.apply_async(args=[600], uuid='long-b')");
    until("both workers are at work", async || {
        durable
            .project
            .notes()
            .iter()
            .filter(|note| *note == "sleeping")
            .count()
            == 2
    })
    .await;

    // More than the workers, the pool and the window hold.
    durable.publish(
        "import json
from dispatcherd.factories import get_publisher_from_settings
publisher = get_publisher_from_settings()
def send(**message): publisher.publish_message(channel=CHANNEL, message=json.dumps(message))
for number in range(80): add.apply_async(args=[number], uuid='add-%d' % number)
for number in range(3): send(task='my_tasks.add', args=[1000], uuid='like-%d' % number, on_duplicate='serial')
send(task='my_tasks.add', args=[2000], uuid='later', delay=3600)
print_hello.apply_async(args=[], kwargs={}, uuid='hello')",
    );
    let all = |answer: &Value| count(&places(&answer[0]));
    until("all are there", async || {
        all(&durable.dispatcherctl(&["running"])) == 2 + 80 + 3 + 1 + 1
    })
    .await;
    let client = durable.sql().await;
    let running = durable.dispatcherctl(&["running"]);
    let found = places(&running[0]);
    let main = durable.dispatcherctl(&["main"]);

    assert_eq!(found["worker"].len(), 2, "{found:?}");
    assert_eq!(found["delayed"], ["later"]);
    // Its head may be in the window.
    assert!(found["blocked"].len() >= 2, "{found:?}");
    assert!(
        found["blocked"].iter().all(|uuid| uuid.starts_with("like-")),
        "{found:?}"
    );
    assert_eq!(running[0]["delayed-0"]["task"], "my_tasks.add");
    assert_eq!(running[0]["delayed-0"]["channel"], durable.project.channel());
    let one = durable.dispatcherctl(&["running", "--uuid", "later"]);
    assert_eq!(
        places(&one[0]),
        places(&serde_json::json!({ "delayed-0": { "uuid": "later" } }))
    );
    // The two at work and some of the others came from the queue.
    assert!(main[0]["received_count"].as_u64() >= Some(10), "{main}");

    let cancelled = durable.dispatcherctl(&["cancel", "--uuid", "later"]);
    assert_eq!(places(&cancelled[0])["delayed"], ["later"]);
    let cancelled = durable.dispatcherctl(&["cancel", "--task", "my_tasks.add"]);
    assert_eq!(all(&cancelled), 83, "{cancelled}");
    until("nothing else is cancelled, and nothing comes back", async || {
        let mut left = places(&durable.dispatcherctl(&["running"])[0]);
        let queued = left.remove("queued").unwrap_or_default();
        left.values_mut().for_each(|uuids| uuids.sort());
        queued == ["hello"] && left.len() == 1 && left["worker"] == ["long-a", "long-b"]
    })
    .await;
    assert_eq!(rows(&client).await, 3, "two at work, and one that waits for them");
    let cancelled = durable.dispatcherctl(&["cancel"]);
    assert_eq!(all(&cancelled), 3, "{cancelled}");
    until("nothing is left", async || rows(&client).await == 0).await;

    durable.publish("add.delay(4321)");
    durable.project.noted("4321").await;
    let notes = durable.project.notes();
    assert_eq!(notes, ["sleeping", "sleeping", "4321"], "no other task has run");
    durable.end(vec![service]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_two_services_cancels_what_the_other_does_not() {
    let Some(durable) = Durable::with("each_of_two_services_cancels_what_the_other_does_not", "").await else {
        return;
    };
    durable.change("max_workers: 2", "max_workers: 1");
    let services = vec![durable.start("node-a", &[]).await, durable.start("node-b", &[]).await];
    durable.publish("for number in range(100): sleep.apply_async(args=[600], uuid='long-%d' % number)");
    until("both are at work", async || {
        durable
            .project
            .notes()
            .iter()
            .filter(|note| *note == "sleeping")
            .count()
            == 2
    })
    .await;

    let answers = durable.dispatcherctl(&["cancel", "--expected-replies", "2"]);

    let each: Vec<Places> = answers.as_array().unwrap().iter().map(places).collect();
    let mut cancelled: Vec<_> = each.iter().flat_map(|places| places.values().flatten()).collect();
    cancelled.sort();
    let mut expected: Vec<_> = (0..100).map(|number| format!("long-{number}")).collect();
    expected.sort();
    assert_eq!(
        cancelled,
        expected.iter().collect::<Vec<_>>(),
        "each by one of them: {each:?}"
    );
    assert!(each.iter().all(|places| places["worker"].len() == 1), "{each:?}");
    let client = durable.sql().await;
    until("nothing is left", async || rows(&client).await == 0).await;
    assert_eq!(durable.project.notes(), ["sleeping", "sleeping"]);
    durable.end(services).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_answered_in_time_over_thirty_thousand_waiting_tasks() {
    let test = "commands_are_answered_in_time_over_thirty_thousand_waiting_tasks";
    let Some(durable) = Durable::with(test, "").await else {
        return;
    };
    let service = durable.start("node-a", &[]).await;
    let client = durable.sql().await;
    // As `dispatch_enqueue` would, all at once.
    let fill = "WITH stored AS (
            INSERT INTO dispatch_item (queue, message_id, payload, priority, run_at, created_at, attempts)
            SELECT $1, 'many-' || n, convert_to('{\"task\": \"my_tasks.' || CASE WHEN n % 2 = 0 THEN 'add' ELSE 'print_hello' END
                || '\", \"uuid\": \"many-' || n || '\", \"args\": [\"' || repeat('x', 500) || '\"]}', 'UTF8'), 0, due, due, 0
            FROM generate_series(1, 30000) n,
                (SELECT (extract(epoch FROM now() + interval '1 hour') * 1000000)::bigint AS due) AS soon
            RETURNING id, queue, priority, run_at
        ) INSERT INTO dispatch_ready (queue, priority, run_at, id) SELECT queue, priority, run_at, id FROM stored";
    client.execute(fill, &[&durable.project.channel]).await.unwrap();

    // Its own client waits for a second.
    let asked = std::time::SystemTime::now();
    let all = durable.dispatcherctl(&["running"]);
    tell(&format!("running over 30000: {:?}", asked.elapsed().unwrap()));
    let shown = count(&places(&all[0]));
    assert!((1..=5_000).contains(&shown), "{shown}");
    assert_eq!(
        all[0]["error"].as_str().map(|error| error.starts_with("only ")),
        Some(true),
        "{:?}",
        all[0]["error"]
    );

    // However many wait, one task can be cancelled; whoever asks again is told that it is gone.
    durable.dispatcherctl(&["cancel", "--uuid", "many-27777"]);
    until("one is gone", async || rows(&client).await == 29_999).await;
    durable.dispatcherctl(&["cancel", "--task", "my_tasks.add"]);
    until("half of them are gone", async || rows(&client).await == 14_999).await;
    let others = "SELECT count(*) FROM dispatch_item WHERE convert_from(payload, 'UTF8') LIKE '%my_tasks.add%'";
    let others: i64 = client.query_one(others, &[]).await.unwrap().get(0);
    assert_eq!(others, 0);
    durable.end(vec![service]).await;
}
