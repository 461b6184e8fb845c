use dispatch_sources::dispatcherd::Settings;

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
