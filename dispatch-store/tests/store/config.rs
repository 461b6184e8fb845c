use dispatch_core::Registry;

#[test]
fn every_store_of_this_build_is_registered() {
    let mut registry = Registry::new();

    dispatch_store::register(&mut registry);

    let names: Vec<_> = registry.stores().map(|store| store.name).collect();
    let mut expected = vec!["memory"];
    expected.extend(cfg!(feature = "postgres").then_some("postgres"));
    expected.extend(cfg!(feature = "redis").then_some("redis"));
    expected.extend(cfg!(feature = "sqlite").then_some("sqlite"));
    assert_eq!(names, expected);
}

#[cfg(feature = "sqlite")]
#[test]
fn an_unknown_key_is_refused() {
    let error = toml::from_str::<dispatch_store::SqliteConfig>("pth = \"a.db\"").unwrap_err();

    assert!(error.to_string().contains("unknown field `pth`"), "{error}");
}

#[cfg(feature = "postgres")]
#[test]
fn a_poll_that_is_no_look_now_and_then_is_refused() {
    use dispatch_core::config::{StoreConfig, StoreContext};

    for (interval, fits) in [("9ms", false), ("10ms", true), ("1m", true), ("61s", false)] {
        for wakeup in ["notify", "poll"] {
            let toml = format!("url = \"postgres://host/db\"\nwakeup = \"{wakeup}\"\npoll_interval = \"{interval}\"");
            let config: dispatch_store::PostgresConfig = toml::from_str(&toml).unwrap();
            let field = config
                .build(&StoreContext { base_dir: ".".into() })
                .err()
                .and_then(|error| error.field);
            assert_eq!(field.is_none(), fits, "{interval}: {field:?}");
            assert!(fits || field.as_deref() == Some("poll_interval"));
        }
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn a_node_without_a_name_and_a_heart_that_races_or_sleeps_are_refused() {
    use dispatch_core::config::{StoreConfig, StoreContext};

    for (toml, wrong) in [
        ("node = \"worker-1\"", None),
        ("node = \"\"", Some("node")),
        ("node = \"a\\u0000b\"", Some("node")),
        ("heartbeat = \"1s\"", None),
        ("heartbeat = \"999ms\"", Some("heartbeat")),
        ("heartbeat = \"1h\"", None),
        ("heartbeat = \"3601s\"", Some("heartbeat")),
    ] {
        let config: dispatch_store::SqliteConfig = toml::from_str(toml).unwrap();
        let refused = config.build(&StoreContext { base_dir: ".".into() }).err();

        assert_eq!(refused.and_then(|error| error.field).as_deref(), wrong, "{toml}");
    }
}

#[cfg(feature = "postgres")]
#[test]
fn a_url_of_another_kind_is_refused_without_being_printed() {
    use dispatch_core::config::{StoreConfig, StoreContext};

    let config: dispatch_store::PostgresConfig = toml::from_str("url = \"mysql://me:hunter2@host/db\"").unwrap();
    let error = config.build(&StoreContext { base_dir: ".".into() }).unwrap_err();

    assert_eq!(error.field.as_deref(), Some("url"));
    assert!(!format!("{error:?}").contains("hunter2"));
}
