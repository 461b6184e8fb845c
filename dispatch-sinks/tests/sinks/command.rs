use std::time::Duration;

use dispatch_core::testing::sink::sink_battery;
use dispatch_core::{Class, Error, Message, Sink as _, config::Template};
use dispatch_sinks::command::{CommandSink, CommandSinkConfig};
use tokio::time::timeout;

fn sink(command: &[&str], change: impl FnOnce(&mut CommandSinkConfig)) -> CommandSink {
    let mut config = CommandSinkConfig::new(command.iter().map(|word| word.parse::<Template>().unwrap()));
    change(&mut config);
    CommandSink::new(&config, ".".as_ref()).unwrap()
}

fn shell(script: &str) -> CommandSink {
    sink(&["sh", "-c", script], |_| {})
}

fn code(error: &Error) -> &str {
    error.code().unwrap()
}

#[tokio::test]
async fn the_payload_goes_in_and_the_reply_comes_out() {
    let payload: Vec<u8> = (0..=255).cycle().take(300_000).collect();

    let reply = sink(&["cat"], |_| {})
        .send(Message::new(payload.clone()))
        .await
        .unwrap();

    assert!(reply.payload == payload);
}

#[tokio::test]
async fn arguments_and_environment_say_which_message_it_is() {
    let script = r#"printf '%s|' "$0" "$1" "$DISPATCH_ID" "$DISPATCH_ATTEMPT" "$DISPATCH_KEY" "$DISPATCH_HEADER_X_TAG" "$DISPATCH_META_FILE_LINE" "$TRACEPARENT" "$TENANT""#;
    let sink = sink(&["sh", "-c", script, "{{ id }}", "a {{ key }}; echo no"], |config| {
        config
            .env
            .insert("TENANT".into(), "{{ header:tenant }}".parse().unwrap());
    });
    let message = Message::with_id("$(id)", "")
        .with_key("k y")
        .with_attempt(4)
        .header("x-tag", "t")
        .header("tenant", "a7")
        .header("traceparent", "00-1")
        .meta("file_line", "7");

    let reply = sink.send(message).await.unwrap();

    assert_eq!(&reply.payload[..], b"$(id)|a k y; echo no|$(id)|4|k y|t|7|00-1|a7|");
}

#[tokio::test]
async fn exit_codes_become_classes() {
    let by_payload = shell("read code; echo one >&2; echo the reason >&2; exit $code");

    for (exit, class) in [
        (1, Class::Retry),
        (64, Class::Permanent),
        (65, Class::Permanent),
        (69, Class::Unavailable),
        (75, Class::Retry),
        (77, Class::Permanent),
        (78, Class::Permanent),
        (255, Class::Retry),
    ] {
        let error = by_payload.send(Message::new(format!("{exit}\n"))).await.unwrap_err();

        assert_eq!((error.class(), code(&error)), (class, exit.to_string().as_str()));
        assert_eq!(error.to_string(), format!("sh: exit code {exit}: one | the reason"));
    }
}

#[tokio::test]
async fn a_process_ended_by_a_signal_may_work_later() {
    let error = shell("kill -9 $$").send(Message::new("")).await.unwrap_err();

    assert_eq!((error.class(), code(&error)), (Class::Retry, "signal_9"));
}

#[tokio::test]
async fn a_program_that_cannot_be_started_makes_the_sink_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "text").unwrap();
    for (sink, hint) in [
        (sink(&["no-such-program-anywhere"], |_| {}), "no such program"),
        (sink(&["./no/such/program"], |_| {}), "no such program"),
        (sink(&[plain.to_str().unwrap()], |_| {}), "not executable"),
        (
            sink(&["cat"], |config| config.cwd = Some("no/such/directory".into())),
            "working directory",
        ),
    ] {
        let error = sink.send(Message::new("")).await.unwrap_err();

        assert_eq!((error.class(), code(&error)), (Class::Unavailable, "start"));
        assert!(error.to_string().contains(hint), "{error}");
    }
    assert!(sink(&["no-such-program-anywhere"], |_| {}).probe().await.is_err());
    sink(&["sh"], |_| {}).probe().await.unwrap();
}

#[tokio::test]
async fn a_message_that_fits_no_argument_list_is_permanent() {
    let sink = sink(&["true", "{{ key }}"], |_| {});

    for key in ["nul\0byte".to_owned(), "x".repeat(10_000_000)] {
        let error = sink.send(Message::new("").with_key(key)).await.unwrap_err();

        assert_eq!((error.class(), code(&error)), (Class::Permanent, "unfit"), "{error}");
    }
    let reply = sink
        .send(Message::new("").with_key("k").header("raw", "nul\0byte"))
        .await;
    reply.unwrap();
}

#[tokio::test]
async fn a_process_need_not_read_its_input() {
    let big = Message::new(vec![b'x'; 5_000_000]);

    shell("exec <&-; exit 0").send(big.clone()).await.unwrap();
    let reply = shell("echo done").send(big).await.unwrap();

    assert_eq!(&reply.payload[..], b"done\n");
}

#[tokio::test]
async fn long_output_is_cut_and_said_to_be() {
    let sink = sink(&["head", "-c", "1000000", "/dev/zero"], |config| {
        config.max_output = "1KiB".parse().unwrap()
    });

    let reply = sink.send(Message::new("")).await.unwrap();

    assert_eq!(
        (reply.payload.len(), reply.headers.get("dispatch-truncated")),
        (1024, Some("true"))
    );
}

#[tokio::test]
async fn an_empty_environment_is_empty() {
    let sink = sink(&["/bin/sh", "-c", "echo ${HOME-none} $DISPATCH_ID"], |config| {
        config.env_clear = true
    });

    let reply = sink.send(Message::with_id("m1", "")).await.unwrap();

    assert_eq!(&reply.payload[..], b"none m1\n");
}

/// Waits until none of the processes written to this file is there, not even as a zombie.
async fn all_gone(processes: &std::path::Path) {
    let still_there = || {
        let text = std::fs::read_to_string(processes).unwrap();
        text.lines()
            .any(|process| std::path::Path::new("/proc").join(process).exists())
    };
    let gone = async {
        while still_there() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), gone)
        .await
        .expect("all processes end, and are reaped");
}

#[tokio::test]
async fn a_dropped_send_kills_the_whole_group() {
    let dir = tempfile::tempdir().unwrap();
    let processes = dir.path().join("processes");
    let script = format!(
        "sleep 1000 & echo $! > {0}; echo $$ >> {0}; mv {0} {1}; wait",
        processes.with_extension("new").display(),
        processes.display()
    );
    let sink = shell(&script);

    {
        let send = sink.send(Message::new(""));
        tokio::pin!(send);
        while !processes.exists() {
            tokio::select! {
                outcome = &mut send => panic!("{outcome:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
    }

    all_gone(&processes).await;
}

#[tokio::test]
async fn what_a_process_leaves_behind_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let processes = dir.path().join("processes");
    let sink = shell(&format!("sleep 1000 & echo $! > {}; echo done", processes.display()));

    let reply = sink.send(Message::new("")).await.unwrap();

    assert_eq!(&reply.payload[..], b"done\n");
    all_gone(&processes).await;
}

#[test]
fn mistakes_name_their_field() {
    let build = |command: &[&str], change: fn(&mut CommandSinkConfig)| {
        let mut config = CommandSinkConfig::new(command.iter().map(|word| word.parse::<Template>().unwrap()));
        change(&mut config);
        CommandSink::new(&config, ".".as_ref()).unwrap_err().field.unwrap()
    };

    assert_eq!(build(&[], |_| {}), "command");
    assert_eq!(build(&["{{ key }}"], |_| {}), "command.0");
    assert_eq!(build(&[""], |_| {}), "command.0");
    assert_eq!(
        build(&["x"], |config| drop(
            config.env.insert("a=b".into(), Template::literal(""))
        )),
        "env.a=b"
    );
}

#[tokio::test]
async fn the_battery_holds() {
    let dir = tempfile::tempdir().unwrap();
    let ids = dir.path().join("ids");
    let sink = shell(&format!("cat > /dev/null; echo \"$DISPATCH_ID\" >> {}", ids.display()));

    sink_battery(&sink, async |id| {
        std::fs::read_to_string(&ids).unwrap().lines().any(|line| line == id)
    })
    .await;
}
