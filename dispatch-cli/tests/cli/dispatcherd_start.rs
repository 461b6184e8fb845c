//! Which file the preset takes, what it says of it and how loud, and how it ends.

use rustix::process::Signal;

use crate::{
    dispatcherd::Project,
    support::{Done, command, dir, done},
};

/// A file whose channel tells it from others.
fn file(channel: &str) -> String {
    format!("version: 2\nbrokers: {{pg_notify: {{config: {{conninfo: \"dbname=app\"}}, channels: [{channel}]}}}}\n")
}

#[test]
fn a_named_file_goes_before_the_variables_and_that_before_the_one_that_lies_here() {
    let dir = dir(&[
        ("dispatcher.yml", &file("here")),
        ("variable.yml", &file("by_variable")),
        ("flag.yml", &file("by_flag")),
    ]);
    let print = |variable: Option<&str>, flag: &[&str]| -> Done {
        let mut printing = command(dir.path(), &[&["dispatcherd", "--print-config"], flag].concat());
        printing.env_remove("DISPATCHERD_CONFIG_FILE");
        done(printing.envs(variable.map(|file| ("DISPATCHERD_CONFIG_FILE", file))))
    };

    for (variable, flag, channel) in [
        (None, &[][..], "here"),
        (Some("variable.yml"), &[], "by_variable"),
        (Some("variable.yml"), &["--config", "flag.yml"], "by_flag"),
        (None, &["--config", "flag.yml"], "by_flag"),
        // As if it had not been named: so it is with dispatcherd.
        (Some("variable.yml"), &["--config", "dispatcher.yml"], "by_variable"),
    ] {
        let printed = print(variable, flag);

        let wanted = format!("channels = [\"{channel}\"]");
        assert!(
            printed.code == 0 && printed.out.contains(&wanted),
            "{variable:?} {flag:?}: {printed:?}"
        );
    }
    let gone = print(Some("nowhere.yml"), &[]);
    assert!(gone.code == 1 && gone.err.contains("nowhere.yml"), "{gone:?}");
}

#[test]
fn a_section_that_nobody_knows_is_a_warning() {
    let dir = dir(&[("dispatcher.yml", &(file("a") + "exstra: {anything: 1}\n"))]);

    let printed = done(command(dir.path(), &["dispatcherd", "--print-config"]).env_remove("DISPATCHERD_CONFIG_FILE"));

    assert_eq!(printed.code, 0, "{printed:?}");
    assert_eq!(
        printed.err.trim(),
        "warning: dispatcher.yml: `exstra` means nothing here"
    );
}

/// What a variable names is what is spoken of, whatever it is that is wrong there.
#[test]
fn the_file_that_was_read_is_the_one_that_is_named() {
    let keyed = |keyword: &str| file("a").replace("conninfo: \"dbname=app\"", &format!("dbname: app, {keyword}"));
    let dir = dir(&[
        ("warned.yml", &(file("a") + "exstra: {anything: 1}\n")),
        ("wrong.yml", &keyed("require_auth: scram-sha-256")),
        (
            "durable.yml",
            &keyed("sslcrl: a.crl").replace("pg_notify", "dispatch_py.broker"),
        ),
        ("none.yml", "version: 2\nbrokers: {}\n"),
    ]);
    let told = |verb: &[&str], variable: &str| done(command(dir.path(), verb).env("DISPATCHERD_CONFIG_FILE", variable));
    let print = ["dispatcherd", "--print-config"];

    let warned = told(&print, "warned.yml");
    assert_eq!(warned.err.trim(), "warning: warned.yml: `exstra` means nothing here");
    for verb in [&print[..], &["ctl", "alive"]] {
        for (name, key) in [
            ("wrong.yml", "brokers.pg_notify.config: `require_auth`"),
            ("durable.yml", "brokers.dispatch_py.broker.config: `sslcrl`"),
            ("none.yml", "brokers: "),
        ] {
            let wrong = told(verb, name);
            let words = format!("{name}: {key}");
            assert!(wrong.code == 1 && wrong.err.contains(&words), "{verb:?}: {wrong:?}");
        }
    }
}

/// Each of these stopped the service.
#[test]
fn the_drivers_ordinary_keywords_make_a_pipeline() {
    for config in [
        "dbname: app, sslmode: verify-full, connect_timeout: 5",
        "dbname: app, sslmode: verify-ca, keepalives: 1, keepalives_idle: 5, keepalives_interval: 5, keepalives_count: 5",
        "dbname: app, sslmode: allow, sslsni: 1, gssencmode: disable, ssl_min_protocol_version: TLSv1.2",
        "conninfo: 'dbname=app client_encoding=utf8 gssencmode=disable keepalives_count=5', tcp_user_timeout: 9000",
        "conninfo: 'postgresql://h/app?sslmode=verify-full&gssencmode=disable', password: p",
    ] {
        let dir = dir(&[("dispatcher.yml", &file("a").replace("conninfo: \"dbname=app\"", config))]);
        let mut printing = command(dir.path(), &["dispatcherd", "--print-config"]);
        let printed = done(printing.env_remove("DISPATCHERD_CONFIG_FILE"));
        assert_eq!(printed.code, 0, "{config}: {printed:?}");
    }
}

#[test]
fn a_level_that_is_none_is_no_command_line() {
    let dir = dir(&[("dispatcher.yml", &file("a"))]);
    for (arguments, level) in [
        (&["dispatcherd", "--log-level", "WRONG"][..], "debug"),
        (&["ctl", "set_log_level", "--level", "bogus"], "CRITICAL"),
    ] {
        let refused = done(command(dir.path(), arguments).env_remove("DISPATCHERD_CONFIG_FILE"));
        assert!(refused.code == 2 && refused.err.contains(level), "{refused:?}");
    }
}

/// Python's names say how much is logged.
#[tokio::test]
async fn levels_are_pythons() {
    for (level, tells_failures) in [("WARNING", true), ("CRITICAL", false)] {
        let Some(project) = Project::new("levels_are_pythons", "") else {
            return;
        };
        let mut service = project.quietly(level);
        // What nobody tells is asked for.
        crate::support::until("it answers", async || project.ctl(&["alive"]).out.contains("node-a")).await;
        project.publish("fail.delay()\nprint_hello.delay()");
        project.noted("hello world!!").await;
        service.signal(Signal::TERM);
        assert_eq!(service.ends().await, 0, "{level}");

        let log = service.log();
        let told = log.iter().any(|line| line.contains("of its own"));
        assert_eq!(told, tells_failures, "{level}: {log:#?}");
        assert!(
            !log.iter().any(|line| line.contains("\"listening\"")),
            "{level}: {log:#?}"
        );
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_with_its_own_code() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let Some(project) = Project::new("a_second_signal_ends_it_at_once_with_its_own_code", "") else {
            return;
        };
        let mut service = project.start(&[]).await;
        project.publish("sleep.delay(60)");
        project.noted("sleeping").await;
        service.signal(signal);
        service.says("draining").await;

        service.signal(signal);

        assert_eq!(service.ends().await, code, "{:#?}", service.log());
        assert!(!project.notes().contains(&"slept".to_owned()));
    }
}
