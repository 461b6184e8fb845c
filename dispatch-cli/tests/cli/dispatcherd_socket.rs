//! The unix socket as the only broker, between the package's publisher and `dispatcherctl` and ours.

use rustix::process::Signal;

use crate::{
    dispatcherd::Project,
    support::{Done, command, done, until},
};

fn ours(project: &Project, arguments: &[&str]) -> Done {
    let arguments = [&["ctl", "--json"], arguments].concat();
    done(project.surroundings(&mut command(project.path(), &arguments)))
}

#[tokio::test]
async fn the_socket_alone_is_broker_enough() {
    let Some(project) = Project::new("the_socket_alone_is_broker_enough", "") else {
        return;
    };
    let file = project.path().join("dispatcher.yml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (before, _) = text.split_once("brokers:\n").unwrap();
    let alone = format!(
        "{before}brokers:\n  socket: {{socket_path: run.sock}}\n\
         producers:\n  OnStartProducer:\n    task_list:\n      my_tasks.add: {{args: [500], kwargs: {{b: 1}}}}\n"
    );
    std::fs::write(&file, alone).unwrap();
    let nobody = ours(&project, &["alive"]);
    assert!(
        nobody.code == 1 && nobody.err.contains("run.sock") && nobody.err.contains("does a service"),
        "{nobody:?}"
    );
    let mut service = project.start_and_hear(&[], "listening on a socket").await;
    project.noted("501").await;

    project.publish("print_hello.delay(); add.delay(20, b=3); sleep.apply_async(args=[60], uuid='long')");

    for wanted in ["hello world!!", "23", "sleeping"] {
        project.noted(wanted).await;
    }
    for (command, part) in [
        ("alive", "node_id: node-a"),
        ("running", "uuid: long"),
        ("producers", "socket-producer"),
        ("status", "socket-producer"),
    ] {
        let theirs = project.ctl(&[command]);
        assert!(theirs.code == 0 && theirs.out.contains(part), "{command}: {theirs:?}");
    }
    let running = ours(&project, &["running", "--task", "my_tasks.sleep"]);
    assert!(running.code == 0 && running.out.contains("\"long\""), "{running:?}");
    // Large enough for pieces both ways.
    let status = ours(&project, &["status"]);
    assert!(status.out.len() > 1_024, "{status:?}");
    assert_eq!(status.json()[0]["node_id"], "node-a");
    let path = project.path().join("run.sock");
    let elsewhere = ours(
        &project,
        &["alive", "--config", "none.yml", "--socket", path.to_str().unwrap()],
    );
    assert_eq!(elsewhere.json()[0]["node_id"], "node-a", "{elsewhere:?}");
    let two = ours(&project, &["alive", "--expected-replies", "2", "--timeout", "100ms"]);
    assert_eq!((two.code, two.json().as_array().unwrap().len()), (1, 1), "{two:?}");
    let cancelled = ours(&project, &["cancel", "--uuid", "long"]);
    assert!(
        cancelled.code == 0 && cancelled.out.contains("\"long\""),
        "{cancelled:?}"
    );
    service.says("was cancelled").await;

    service.signal(Signal::TERM);
    assert_eq!(service.ends().await, 0);
    until("the socket file is gone", async || !path.exists()).await;
}

#[tokio::test]
async fn as_many_answers_are_waited_for_as_are_expected() {
    let Some(project) = Project::new("as_many_answers_are_waited_for_as_are_expected", "") else {
        return;
    };
    let file = project.path().join("dispatcher.yml");
    let text = std::fs::read_to_string(&file).unwrap();
    let with_socket = text.replace(
        "brokers:\n",
        "publish: {default_control_broker: socket}\nbrokers:\n  socket: {socket_path: run.sock}\n",
    );
    let other = text.replace("node-a", "node-b");
    std::fs::write(project.path().join("other.yml"), other).unwrap();
    let services = [
        project.start(&[]).await,
        project.start(&["--config", "other.yml"]).await,
    ];

    let answers = |expected: &str, more: &[&str]| {
        let arguments = [&["alive", "--expected-replies", expected], more].concat();
        let answered = ours(&project, &arguments);
        let mut nodes: Vec<_> = answered
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|answer| answer["node_id"].as_str().unwrap().to_owned())
            .collect();
        nodes.sort();
        (answered.code, nodes)
    };

    let both = answers("2", &["--timeout", "20s"]);
    assert_eq!(both, (0, ["node-a", "node-b"].map(str::to_owned).into()));
    let (code, nodes) = answers("3", &["--timeout", "3s"]);
    assert_eq!((code, nodes.len()), (1, 2), "those that came are shown");
    let (code, nodes) = answers("1", &[]);
    assert_eq!((code, nodes.len()), (0, 1), "the first is enough");

    // Whoever names the socket for commands is not answered by channels.
    std::fs::write(&file, with_socket).unwrap();
    let nobody = ours(&project, &["alive"]);
    assert!(nobody.code == 1 && nobody.err.contains("run.sock"), "{nobody:?}");
    drop(services);
}
