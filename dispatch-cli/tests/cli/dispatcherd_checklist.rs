//! What a drop-in must do, point by point, between the real package's publishers, control client and workers.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    dispatcherd::Project,
    support::{Running, command, done, until},
};

/// Tasks beside those of every project.
const MORE: &str = r#"
import json, os, signal, time
from dispatcherd.publish import task
from dispatcherd.worker.exceptions import DispatcherCancel
from my_tasks import CHANNEL, note

def hold(name):
    note(name + " begins")
    while not os.path.exists(name + ".go"):
        time.sleep(0.01)
    note(name + " ends")

@task(queue=CHANNEL)
def parallel(): hold("parallel")

@task(queue=CHANNEL, on_duplicate="serial")
def serial(): hold("serial")

@task(queue=CHANNEL, on_duplicate="queue_one")
def queue_one(): hold("queue_one")

@task(queue=CHANNEL, on_duplicate="discard")
def discard(): hold("discard")

@task(queue=CHANNEL, timeout=0.2)
def too_long():
    time.sleep(60)

@task(queue=CHANNEL)
def catches():
    signal.signal(signal.SIGTERM, lambda *_: note("its SIGTERM handler"))
    note("catches begins")
    try:
        time.sleep(60)
    except DispatcherCancel:
        note("caught")
        raise

@task(queue=CHANNEL)
def busy(pad):
    time.sleep(0.002)

@task(queue=CHANNEL)
def length(text):
    note("length %d" % len(text))

@task(queue=CHANNEL, bind=True)
def asks(binder):
    own = binder.control("running", data={"uuid": binder.uuid})
    note("running " + " ".join(message["uuid"] for message in own.values()))
    note("workers %s" % binder.control("workers")["worker-%d" % binder.worker_id]["current_task_uuid"])
    note("alive %s" % binder.control("alive"))
    note("cancel %s" % binder.control("cancel", data={"uuid": "nobody"}))
    before, after = (binder.control("main")["control_count"] for _ in range(2))
    note("counted %s" % (after - before))
    note("run %s" % json.dumps(binder.control("run", data={"task": "my_tasks.add", "args": [4000, 2]})["ack"]["args"]))
"#;

async fn project(test: &str, more: &str) -> Option<(Project, Running)> {
    let project = Project::new(test, more)?;
    std::fs::write(project.path().join("more_tasks.py"), MORE).unwrap();
    let running = project.start(&[]).await;
    Some((project, running))
}

impl Project {
    /// What `code`, in which `control` is the package's own client, leaves in `answer`.
    fn asks(&self, code: &str) -> Value {
        let answer = self.path().join("answer");
        self.publish(&format!(
            "import json\nfrom more_tasks import *\nfrom dispatcherd.factories import get_control_from_settings\n\
             control = get_control_from_settings()\n{code}\nopen('answer', 'w').write(json.dumps(answer))"
        ));
        serde_json::from_str(&std::fs::read_to_string(answer).unwrap()).unwrap()
    }

    fn counted(&self, wanted: &str) -> usize {
        self.notes().iter().filter(|note| *note == wanted).count()
    }

    /// Waits until nothing runs or waits under that name.
    async fn over(&self, task: &str) {
        until(&format!("the end of {task}"), async || {
            let found =
                done(self.surroundings(&mut command(self.path(), &["ctl", "--json", "running", "--task", task])));
            found.code == 0 && found.json()[0] == json!({ "node_id": "node-a" })
        })
        .await;
    }
}

/// Points 1 and 2: large messages and answers go in pieces, as the package makes and reads them; bare payloads are tasks.
#[tokio::test]
async fn pieces_and_bare_payloads_go_both_ways() {
    let Some((project, _service)) = project("pieces_and_bare_payloads_go_both_ways", "").await else {
        return;
    };

    project.publish(
        "from more_tasks import *\nfrom dispatcherd.factories import get_publisher_from_settings\n\
         length.delay('x' * 30000)\n\
         broker = get_publisher_from_settings()\n\
         broker.publish_message(channel=CHANNEL, message='my_tasks.print_hello')\n\
         broker.publish_message(channel=CHANNEL, message='lambda: open(\"lambda\", \"w\").close()')\n\
         sleep.apply_async(args=[60], uuid='one')\nlength.apply_async(args=['y' * 20000], uuid='two', \
         processor_options=[__import__('dispatcherd.processors.delayer', fromlist=['x']).Delayer.Params(delay=1000)])",
    );
    for wanted in ["length 30000", "hello world!!", "sleeping"] {
        project.noted(wanted).await;
    }
    until("the lambda", async || project.path().join("lambda").exists()).await;

    let large = project.asks(
        "answer = control.control_with_reply('running', data={'uuid': 'two', 'kwargs': None, 'ignored': 'z' * 20000})",
    );
    assert_eq!(large[0]["node_id"], "node-a");
    assert_eq!(large[0]["delayed-0"]["args"][0].as_str().map(str::len), Some(20_000));
    let cancelled = project.asks("answer = control.control_with_reply('cancel')");
    assert_eq!(cancelled[0].as_object().unwrap().len(), 3, "{cancelled}");
}

/// Point 2: a command does not wait behind tasks.
#[tokio::test]
async fn the_packages_client_is_answered_in_its_second_under_load() {
    let Some((project, _service)) = project("the_packages_client_is_answered_in_its_second_under_load", "").await
    else {
        return;
    };

    // 40 s of work for two workers, and all of it published before the first question; most of it would not fit an answer.
    let answers = project.asks(
        "import psycopg\n\
         from dispatcherd.config import settings\n\
         with psycopg.connect(settings.brokers['pg_notify']['config']['conninfo'], autocommit=True) as connection:\n\
         \x20   message = json.dumps({'task': 'more_tasks.busy', 'kwargs': {'pad': 'x' * 1000}, 'uuid': 'u-'})[:-2]\n\
         \x20   connection.execute('SELECT count(pg_notify(%s, %s || n || %s)) FROM generate_series(1, 40000) n', \
         (CHANNEL, message, '\"}'))\n\
         answer = [len(control.control_with_reply(command)) for command in ['alive', 'main', 'workers', 'running', 'alive', 'status', 'producers'] * 2]",
    );
    let left = project.asks("answer = control.control_with_reply('running')[0]");

    assert_eq!(
        answers,
        json!(vec![1; 14]),
        "one answer each, within the client's second"
    );
    let error = left["error"].as_str().unwrap_or_default();
    assert!(error.contains("tasks that wait at this service are shown"), "{error}");
    let left = left.as_object().unwrap().len();
    assert!(left > 100, "the load was over too soon to show anything: {left}");
}

/// Point 3: the members that callers of the package read.
#[tokio::test]
async fn the_packages_client_finds_the_members_that_callers_read() {
    let Some((project, _service)) = project("the_packages_client_finds_the_members_that_callers_read", "").await else {
        return;
    };
    project.publish("print_hello.delay(); fail.delay(); sleep.apply_async(args=[60], uuid='long')");
    project.noted("sleeping").await;
    project.over("my_tasks.fail").await;

    let answers = project.asks(
        "answer = {command: control.control_with_reply(command)[0] for command in ['main', 'producers', 'running', 'workers']}",
    );

    let main = &answers["main"];
    assert_eq!(main["pool"]["finished_count"], 2, "what failed has finished: {main}");
    assert!(
        main["received_count"].as_u64() >= Some(4) && main["control_count"].as_u64() >= Some(1),
        "{main}"
    );
    assert!(
        answers["producers"]["pg_notify-producer"]["produced_count"].as_u64() >= Some(4),
        "{answers}"
    );
    let uuids = |map: &Value, member: &str| -> Vec<String> {
        let workers = map
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| name.starts_with("worker-"));
        workers
            .filter_map(|(_, of)| of[member].as_str().map(str::to_owned))
            .collect()
    };
    assert_eq!(uuids(&answers["running"], "uuid"), ["long"]);
    assert_eq!(uuids(&answers["workers"], "current_task_uuid"), ["long"]);
}

/// Point 4: `on_duplicate` as the decorator says it.
#[tokio::test]
async fn duplicates_are_dealt_with_as_the_decorator_says() {
    let Some((project, _service)) = project("duplicates_are_dealt_with_as_the_decorator_says", "").await else {
        return;
    };
    for (policy, runs) in [("parallel", 5), ("serial", 5), ("queue_one", 2), ("discard", 1)] {
        project.publish(&format!(
            "from more_tasks import *\nfor _ in range(5): {policy}.delay()"
        ));
        project.noted(&format!("{policy} begins")).await;
        let at_once = project.counted(&format!("{policy} begins"));
        assert!(policy == "parallel" || at_once == 1, "{policy}: {at_once} at once");
        std::fs::write(project.path().join(format!("{policy}.go")), "").unwrap();

        project.over(&format!("more_tasks.{policy}")).await;

        assert_eq!(project.counted(&format!("{policy} ends")), runs, "{policy}");
    }
    let notes = project.notes();
    let serial: Vec<_> = notes.iter().filter(|note| note.starts_with("serial")).collect();
    assert!(
        serial.chunks(2).all(|pair| pair == ["serial begins", "serial ends"]),
        "one after the other: {serial:?}"
    );
}

/// Point 4: `delay`, `timeout`, `callbacks`, `errbacks`, and the id of a message without one.
#[tokio::test]
async fn delays_timeouts_callbacks_and_ids_are_as_published() {
    let Some((project, service)) = project(
        "delays_timeouts_callbacks_and_ids_are_as_published",
        "producers: {ControlProducer: null}\n",
    )
    .await
    else {
        return;
    };
    project.publish(
        "from more_tasks import *\nfrom dispatcherd.processors.delayer import Delayer\n\
         from dispatcherd.factories import get_publisher_from_settings\n\
         add.apply_async(args=[100], processor_options=[Delayer.Params(delay=0.3)])\n\
         add.apply_async(args=[0], kwargs={'b': 1}, uuid='first')\n\
         too_long.delay()\n\
         def send(**message): get_publisher_from_settings().publish_message(channel=CHANNEL, message=json.dumps(message))\n\
         after = [{'task': 'my_tasks.add', 'args': [7000]}]\n\
         failed = [{'task': 'my_tasks.add', 'kwargs': {'a': 8000}}]\n\
         send(task='my_tasks.fail', callbacks=after, errbacks=failed)\n\
         send(task='my_tasks.bound', bind=True, args=[9000])",
    );

    for wanted in ["1", "100", "7000", "8000", "9000"] {
        project.noted(wanted).await;
    }
    service.says("its timeout of 200ms passed").await;
    let notes = project.notes();
    let place = |wanted: &str| notes.iter().position(|note| note == wanted);
    assert!(place("1") < place("100"), "the delayed one came later: {notes:?}");
    assert!(
        place("8000") < place("7000"),
        "errbacks come before callbacks: {notes:?}"
    );
    assert!(
        notes.iter().any(|note| note.starts_with("bound internal-")),
        "{notes:?}"
    );
}

/// Point 5: a cancel is an exception in the task, and never its SIGTERM handler's business.
#[tokio::test]
async fn a_cancel_can_be_caught_and_touches_no_sigterm_handler() {
    let Some((project, service)) = project("a_cancel_can_be_caught_and_touches_no_sigterm_handler", "").await else {
        return;
    };
    project.publish("from more_tasks import *\ncatches.apply_async(uuid='to-cancel')");
    project.noted("catches begins").await;

    let cancelled = project.ctl(&["cancel", "--uuid", "to-cancel"]);

    assert_eq!(cancelled.code, 0, "{cancelled:?}");
    project.noted("caught").await;
    service.says("was cancelled").await;
    project.over("more_tasks.catches").await;
    assert_eq!(project.counted("its SIGTERM handler"), 0);
}

/// Point 6: what a bound task may ask of the service.
#[tokio::test]
async fn a_bound_task_asks_and_starts_others() {
    let more = "producers: {ControlProducer: null}\n";
    let Some((project, _service)) = project("a_bound_task_asks_and_starts_others", more).await else {
        return;
    };

    project.publish("from more_tasks import *\nasks.apply_async(uuid='asker')");

    project.noted("4002").await;
    for wanted in [
        "running asker",
        "workers asker",
        "alive {}",
        "cancel {}",
        "counted 1",
        "run [4000, 2]",
    ] {
        project.noted(wanted).await;
    }
}

/// Point 9: what the original ends with.
#[tokio::test]
async fn signals_end_it_with_the_originals_codes() {
    for (signal, code) in [(Signal::TERM, 0), (Signal::INT, 0)] {
        let Some((project, mut service)) = project("signals_end_it_with_the_originals_codes", "").await else {
            return;
        };
        project.publish("print_hello.delay()");
        project.noted("hello world!!").await;

        service.signal(signal);

        assert_eq!(service.ends().await, code, "{signal:?}: {:#?}", service.log());
    }
    let Some(project) = Project::new("signals_end_it_with_the_originals_codes", "") else {
        return;
    };
    let file = project.path().join("dispatcher.yml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("version: 2", "version: 3")).unwrap();
    let told = done(project.surroundings(&mut command(project.path(), &["dispatcherd"])));
    assert!(told.code == 1 && told.err.contains("version"), "{told:?}");
}
