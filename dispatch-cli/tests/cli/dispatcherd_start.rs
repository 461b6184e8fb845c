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
