//! Durable schedules, the end of a service, what is in the queue and no task, and a pooler in between.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    dispatcherd_faults::Durable,
    support::{Running, until},
};

const TASKS: &str = r#"
import os, time
from dispatcherd.publish import task
from my_tasks import CHANNEL, note

@task(queue=CHANNEL, bind=True)
def tick(dispatcher):
    note("tick " + dispatcher.uuid)

@task(queue=CHANNEL)
def own(name):
    note("own " + name)

def noted(text):
    with open(os.environ["NOTES"]) as notes:
        return notes.read().splitlines().count(text)

@task(queue=CHANNEL)
def two_at_once():
    note("one of two")
    while noted("one of two") < 2:
        time.sleep(0.01)
    note("two at once")

@task(queue=CHANNEL)
def never_twice():
    note("never twice")
    while not os.path.exists("enough"):
        time.sleep(0.01)
    note("let go")

@task(queue=CHANNEL)
def in_an_hour():
    note("an hour later")
"#;

async fn durable(test: &str, more: &str) -> Option<Durable> {
    let durable = Durable::with(test, more).await?;
    std::fs::write(durable.project.path().join("timed_tasks.py"), TASKS).unwrap();
    Some(durable)
}

fn scheduled(tasks: &str) -> String {
    format!("producers:\n  ScheduledProducer:\n    task_schedule:\n{tasks}")
}

impl Durable {
    async fn client(&self) -> tokio_postgres::Client {
        let (client, connection) = tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    fn count(&self, note: &str) -> usize {
        self.project.notes().iter().filter(|noted| *noted == note).count()
    }

    /// How many slots that many services have fired together.
    fn fired(&self, services: usize) -> u64 {
        let answer = self.ctl(&["producers", "--expected-replies", &services.to_string()]);
        let answer = answer.json();
        let fired = |one: &Value| one["scheduled-producer"]["produced_count"].as_u64();
        answer.as_array().unwrap().iter().filter_map(fired).sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_schedule_fires_each_slot_once_over_two_services() {
    let schedule = scheduled("      timed_tasks.tick: {schedule: 1}\n");
    let Some(durable) = durable("a_durable_schedule_fires_each_slot_once_over_two_services", &schedule).await else {
        return;
    };
    let services = vec![durable.start("node-a", &[]).await, durable.start("node-b", &[]).await];
    let ticks = || -> Vec<String> {
        let notes = durable.project.notes();
        let ticks = notes.iter().filter_map(|note| note.strip_prefix("tick "));
        ticks.map(str::to_owned).collect()
    };

    until("six slots", async || ticks().len() >= 6).await;

    let fired = durable.fired(2);
    assert!(fired >= 6, "`producers` tells of {fired}");
    let found = ticks();
    let slots: BTreeSet<_> = found.iter().collect();
    assert_eq!(slots.len(), found.len(), "a slot fired twice: {found:?}");
    let second = |uuid: &&String| {
        let slot = uuid.rsplit_once('@').unwrap().1;
        slot[17..19].parse::<u32>().unwrap()
    };
    let seconds: Vec<_> = slots.iter().map(second).collect();
    let is_whole = seconds.windows(2).all(|two| (two[0] + 1) % 60 == two[1]);
    assert!(is_whole, "a slot is missing: {slots:?}");
    durable.end(services).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_that_share_a_schema_fire_their_own_schedules() {
    let test = "projects_that_share_a_schema_fire_their_own_schedules";
    let of = |name: &str| scheduled(&format!("      timed_tasks.own: {{schedule: 1, args: [{name}]}}\n"));
    let (Some(first), Some(second)) = (durable(test, &of("first")).await, durable(test, &of("second")).await) else {
        return;
    };
    second.change(
        &format!("schema: {}", second.schema.name),
        &format!("schema: {}", first.schema.name),
    );
    let services = vec![first.start("node-a", &[]).await, second.start("node-b", &[]).await];

    until("both have fired", async || {
        first.count("own first") >= 3 && second.count("own second") >= 3
    })
    .await;

    assert_eq!((first.count("own second"), second.count("own first")), (0, 0));
    second.end(services).await;
    first.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_schedules_heed_what_their_tasks_ask_for() {
    let schedules = scheduled(
        "      timed_tasks.never_twice: {schedule: 1, on_duplicate: discard}
      timed_tasks.two_at_once: {schedule: 1}
      timed_tasks.in_an_hour: {schedule: 1, delay: 3600}
",
    );
    let Some(durable) = durable("durable_schedules_heed_what_their_tasks_ask_for", &schedules).await else {
        return;
    };
    durable.change("max_workers: 2", "min_workers: 4, max_workers: 4");
    let service = durable.start("node-a", &[]).await;

    until("a slot runs beside an earlier one", async || {
        durable.count("two at once") >= 2
    })
    .await;
    until("its like is at work", async || durable.count("never twice") == 1).await;
    let fired = durable.fired(1);
    until("three more slots of each", async || durable.fired(1) >= fired + 9).await;
    let client = durable.client().await;
    let waiting = format!(
        "SELECT count(*) FROM {}.dispatch_item WHERE convert_from(payload, 'UTF8') LIKE '%in_an_hour%' \
         AND run_at > (extract(epoch FROM now()) * 1000000 + 3000000000)::bigint",
        durable.schema.name
    );
    let waiting: i64 = client.query_one(&waiting, &[]).await.unwrap().get(0);

    assert_eq!(durable.count("never twice"), 1, "its like runs");
    assert!(waiting >= 3, "only {waiting} wait for their hour");
    assert_eq!(durable.count("an hour later"), 0);
    // Once it is done, the next slot runs.
    std::fs::write(durable.project.path().join("enough"), "").unwrap();
    until("the next", async || durable.count("never twice") >= 2).await;
    durable.end(vec![service]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_drain_cuts_off_runs_again_at_once() {
    let ends: [&[&str]; 2] = [&["--set", "drain_timeout=1s"], &["--on-stop", "cancel"]];
    for how in ends {
        let Some(durable) = durable("what_a_drain_cuts_off_runs_again_at_once", "").await else {
            return;
        };
        // A lease that has to run out would be waited for in vain.
        let lease = ["--set", "source.queue_0.lease=10m"];
        let mut service = durable.start("node-a", &[how, &lease].concat()).await;
        durable.publish("sleep.apply_async(args=[60], uuid='cut-off')");
        durable.project.noted("sleeping").await;

        service.signal(Signal::TERM);
        assert_eq!(service.ends().await, 0, "{how:?}");
        let again = durable.start("node-b", &lease).await;

        until("it runs again", async || durable.count("sleeping") == 2).await;
        assert_eq!(durable.letters(), Vec::<Value>::new(), "{how:?}");
        assert_eq!(durable.count("slept"), 0);
        durable.end(vec![again]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_queue_and_no_task_becomes_a_dead_letter() {
    let Some(durable) = durable("what_is_in_the_queue_and_no_task_becomes_a_dead_letter", "").await else {
        return;
    };
    let service = durable.start("node-a", &[]).await;
    let client = durable.client().await;
    let enqueue = format!(
        "SELECT {}.dispatch_enqueue(queue => $1, payload => $2, id => $3)",
        durable.schema.name
    );
    let bad = [
        ("list", "[1, 2]"),
        ("number", "7"),
        ("text", "\"my_tasks.add\""),
        ("no-json", "{\"task\": "),
        ("command", r#"{"control": "alive"}"#),
        ("nothing", "{}"),
        ("bad-task", r#"{"task": 5}"#),
        (
            "bad-timeout",
            r#"{"task": "my_tasks.add", "args": [1], "timeout": "soon"}"#,
        ),
    ];
    for (id, payload) in bad {
        let queue = &durable.project.channel;
        client.execute(&enqueue, &[queue, &payload, &id]).await.unwrap();
    }

    until("all are dead letters", async || durable.letters().len() >= bad.len()).await;

    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let found: BTreeSet<_> = durable
        .letters()
        .iter()
        .map(|letter| {
            let attempts = letter["attempts"].as_array().unwrap();
            let code = text(&attempts.last().unwrap()["code"]);
            (text(&letter["id"]), text(&letter["reason"]), code, attempts.len())
        })
        .collect();
    let expected = bad.map(|(id, _)| (id.to_owned(), "permanent".to_owned(), "no_task".to_owned(), 1));
    assert_eq!(found, expected.into());
    // Nobody else was disturbed, and a bare name through the broker is a task.
    durable.publish(
        "add.delay(4321)\n\
         from dispatcherd.factories import get_publisher_from_settings\n\
         get_publisher_from_settings().publish_message(channel=CHANNEL, message='my_tasks.print_hello')",
    );
    durable.project.noted("4321").await;
    durable.project.noted("hello world!!").await;
    assert_eq!(durable.letters().len(), bad.len());
    durable.end(vec![service]).await;
}

/// Publisher, store and workers' file through the pooler; what listens beside it.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_pooler_tasks_run_and_commands_are_answered() {
    let test = "behind_a_pooler_tasks_run_and_commands_are_answered";
    let Some(durable) = durable(test, "").await else { return };
    let Ok(pooler) = std::env::var("DISPATCH_TEST_PGBOUNCER_URL") else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{test}: no pooler");
        crate::support::tell(&format!("skipped: {test}: DISPATCH_TEST_PGBOUNCER_URL is not set"));
        return;
    };
    let direct = format!("{}?application_name={}", durable.url, durable.schema.name);
    let file = durable.project.path().join("dispatcher.yml");
    std::fs::copy(&file, file.with_file_name("direct.yml")).unwrap();
    durable.change(&direct, &pooler);
    let settings = [
        format!("store.listen_url={}", durable.url),
        format!("source.notified.dsn={}", durable.url),
    ];
    let service: Running = durable
        .start("node-a", &["--set", &settings[0], "--set", &settings[1]])
        .await;

    durable.publish(
        "from dispatcherd.factories import get_publisher_from_settings\n\
         for number in range(50): add.delay(number)\n\
         like = '{\"task\": \"my_tasks.add\", \"args\": [60], \"on_duplicate\": \"queue_one\"}'\n\
         get_publisher_from_settings().publish_message(channel=CHANNEL, message=like)",
    );

    until("all are done", async || {
        let notes = durable.project.notes();
        (0..50).chain([60]).all(|number| notes.contains(&number.to_string()))
    })
    .await;
    // A task's own publishing goes the same way.
    durable.publish("publish_hello.delay()");
    durable.project.noted("hello world!!").await;
    assert_eq!(durable.letters(), Vec::<Value>::new());
    // Who waits for an answer listens, too.
    let alive = durable.ctl(&["alive", "--config", "direct.yml"]);
    assert!(alive.code == 0 && alive.out.contains("node-a"), "{alive:?}");
    durable.end(vec![service]).await;
}
