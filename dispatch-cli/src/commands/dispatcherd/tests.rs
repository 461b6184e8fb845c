use dispatch_sources::{dispatcherd::Settings, pg_notify::PgNotifySourceConfig};

use super::{OnStop, pipeline::make};

const DEMO: &str = r#"
version: 2
service:
  pool_kwargs: {max_workers: 4, worker_max_lifetime_seconds: null}
  main_kwargs: {node_id: demo-server-a}
  process_manager_kwargs: {preload_modules: [my.tasks]}
brokers:
  pg_notify:
    config: {conninfo: "dbname=app password=c4n4ry"}
    channels: [test_channel, "Zwei \"$x\""]
    max_connection_idle_seconds: null
  socket: {socket_path: run.sock}
producers:
  ScheduledProducer:
    task_schedule:
      a.b.print_hello: {schedule: 3, kwargs: {price: "$5"}, timeout: 1.5}
  OnStartProducer:
    task_list:
      a.b.sleep: {args: [1, [2]]}
      a.b.none: {args: [1, null]}
  ControlProducer: null
worker: {worker_cls: my.Worker, worker_kwargs: {idle_timeout: 3}}
"#;

#[test]
fn the_file_is_right_and_holds_no_secret() {
    let settings = Settings::from_yaml(DEMO).unwrap();

    let made = make(&settings, "python3", OnStop::Cancel).unwrap();

    insta::assert_snapshot!(made.text);
    assert!(!made.text.contains("c4n4ry"));
    assert_eq!(made.variables[0].1, "dbname=app password=c4n4ry");
    let mut registry = dispatch_core::Registry::new();
    crate::register(&mut registry);
    let loader = dispatch_core::config::Loader::new(&registry).environment(made.variables);
    let mut loaded = loader
        .load("dispatcherd", &made.text)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let store = loaded.build_store().unwrap();
    drop(loaded.build(&store).unwrap_or_else(|mistakes| panic!("{mistakes}")));
}

/// Rust services and the preset read the file alike.
#[test]
fn the_source_of_the_file_is_what_settings_say() {
    let settings = Settings::from_yaml(DEMO).unwrap();
    let made = make(&settings, "python3", OnStop::Drain).unwrap();
    let mut registry = dispatch_core::Registry::new();
    crate::register(&mut registry);
    let loader = dispatch_core::config::Loader::new(&registry).environment(made.variables);
    let loaded = loader
        .load("dispatcherd", &made.text)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let mut table = loaded.settings["source"].clone();
    table.as_object_mut().unwrap().remove("type");
    let written: PgNotifySourceConfig = serde_json::from_value(table).unwrap();

    let said = settings.source().unwrap();

    let dsn = |config: &PgNotifySourceConfig| config.dsn.as_ref().unwrap().expose().to_owned();
    assert_eq!(dsn(&said), dsn(&written));
    let (said, written) = (
        serde_json::to_value(said).unwrap(),
        serde_json::to_value(written).unwrap(),
    );
    assert_eq!(said, written);
    assert_eq!(said["schedule"]["a.b.print_hello"]["message"]["kwargs"]["price"], "$5");
}

/// The sources and the store of the pipeline that brokers make.
fn made(brokers: &str) -> toml::Table {
    let settings = Settings::from_yaml(&format!("version: 2\nbrokers: {{{brokers}}}")).unwrap();
    let made = make(&settings, "python3", OnStop::Drain).unwrap();
    let mut registry = dispatch_core::Registry::new();
    crate::register(&mut registry);
    let loader = dispatch_core::config::Loader::new(&registry).environment(made.variables);
    let mut loaded = loader
        .load("dispatcherd", &made.text)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let store = loaded.build_store().unwrap();
    drop(loaded.build(&store).unwrap_or_else(|mistakes| panic!("{mistakes}")));
    toml::from_str(&made.text).unwrap()
}

#[tokio::test]
async fn both_brokers_in_one_file_are_both_read() {
    let durable = "dispatch_py.broker: {config: {dbname: a}, channels: [kept, both], schema: jobs}";

    let one = made(&format!(
        "pg_notify: {{config: {{dbname: a}}, channels: [sent, both]}}, {durable}"
    ));
    let two = made(&format!(
        "pg_notify: {{config: {{dbname: b}}, channels: [sent]}}, {durable}"
    ));

    let queues = |made: &toml::Table| ["queue_0", "queue_1"].map(|queue| made["source"][queue]["queue"].clone());
    assert_eq!(queues(&one), ["kept", "both"].map(toml::Value::from));
    assert_eq!(queues(&two), queues(&one));
    let channels = |made: &toml::Table, source: &str| made["source"][source]["channels"].to_string();
    assert_eq!(channels(&one, "notified"), r#"["sent", "both", "kept"]"#);
    assert_eq!(channels(&two, "notified"), r#"["sent"]"#);
    assert_eq!(channels(&two, "notified_durable"), r#"["kept", "both"]"#);
    for made in [one, two] {
        assert_eq!(made["store"]["schema"].as_str(), Some("jobs"));
        assert_eq!(made["sink"]["on_crash"].as_str(), Some("retry"));
        assert!(made["layers"].get("retry").is_none(), "retry has its defaults");
    }
}

#[tokio::test]
async fn durable_schedules_are_called_by_their_project_and_task() {
    let scheduled = |channels: &str, schedule: &str| {
        made(&format!(
            "dispatch_py.broker: {{config: {{dbname: a}}, {channels}}}}}\n\
             producers: {{ScheduledProducer: {{task_schedule: {{{schedule}}}}}}}\nextra: {{"
        ))
    };
    let (sweep, both) = (
        "app.sweep: {schedule: 2, on_duplicate: discard, args: [$x]}",
        "z.first: {schedule: 1.5}, app.sweep: {schedule: 2, on_duplicate: discard, args: [$x]}, quick: {schedule: 0.5}",
    );
    let alone = scheduled("channels: [jobs]", sweep);
    let grown = scheduled("channels: [jobs, more]", both);
    let other = scheduled("channels: [Jobs]", sweep);
    let homely = scheduled("channels: [a, jobs], default_publish_channel: jobs", sweep);

    let name = |made: &toml::Table| made["name"].as_str().unwrap().to_owned();
    let schedules = |made: &toml::Table| -> Vec<String> {
        let sources = made["source"].as_table().unwrap().iter();
        let schedules = sources.filter(|(_, source)| source["type"].as_str() == Some("schedule"));
        schedules.map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(schedules(&alone).len(), 1);
    assert_eq!(schedules(&grown).len(), 2, "below a second each process has its own");
    assert!(
        schedules(&grown).contains(&schedules(&alone)[0]),
        "whatever else is scheduled"
    );
    assert_eq!((name(&grown), name(&homely)), (name(&alone), name(&alone)));
    assert_eq!(schedules(&other), schedules(&alone));
    assert_ne!(
        name(&other),
        name(&alone),
        "another project's slots and spilled tasks are its own"
    );
    let schedule = &alone["source"][&schedules(&alone)[0]];
    assert_eq!(schedule["queue"].as_str(), Some("jobs"));
    let payload: serde_json::Value =
        serde_json::from_str(&schedule["payload"].as_str().unwrap().replace("$$", "$")).unwrap();
    assert_eq!(
        payload,
        serde_json::json!({"task": "app.sweep", "on_duplicate": "discard", "args": ["$x"]})
    );
    let publishes = |channel: &str| {
        let made = made(&format!(
            "pg_notify: {{config: {{dbname: a}}, channels: [{channel}]}}, dispatch_py.broker: {{config: {{dbname: a}}}}"
        ));
        name(&made)
    };
    assert_ne!(
        publishes("a"),
        publishes("b"),
        "no queue is read, and the store is shared"
    );
    let quick = &grown["source"]["notified"]["schedule"]["quick"];
    assert_eq!(quick["every"].as_str(), Some("500ms"));
}

#[test]
fn the_durable_file_is_right() {
    let durable = DEMO.replace("  pg_notify:", "  dispatch_py.broker:\n    schema: jobs");
    let settings = Settings::from_yaml(&durable).unwrap();

    let made = make(&settings, "python3", OnStop::Drain).unwrap();

    insta::assert_snapshot!(made.text);
    assert!(!made.text.contains("c4n4ry"));
}

#[test]
fn what_only_python_can_honour_is_said() {
    let settings = |config: &str| Settings::from_yaml(&format!("version: 2\nbrokers: {{{config}}}")).unwrap();

    let factories = settings("pg_notify: {async_connection_factory: a.b, sync_connection_factory: a.c, channels: [x]}");
    let error = make(&factories, "python3", OnStop::Drain).unwrap_err();
    assert!(
        error.to_string().contains("connection factories are for Python alone"),
        "{error}"
    );
    let error = make(&settings(""), "python3", OnStop::Drain).unwrap_err();
    assert!(error.to_string().contains("there is no `pg_notify`"), "{error}");
}
