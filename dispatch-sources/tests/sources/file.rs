use std::{collections::HashSet, path::Path, sync::Arc, time::Duration};

use dispatch_core::{
    BoxError, Class, Disposition, MemoryStore, Message, Pipeline, Progress, Received, Source as _, Store as _, sink_fn,
    store::DeadLetterFilter,
    testing::{
        Logs,
        source::{Bench, source_battery},
    },
};
use dispatch_sources::file::{Begin, FileSource, FileSourceConfig, Format, Missing};
use futures::FutureExt as _;
use smol_str::SmolStr;
use tempfile::TempDir;

use crate::{ack, all, context, memory, receive, text, texts};

fn dir(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn source(
    dir: &Path,
    store: &Arc<MemoryStore>,
    paths: &[&str],
    change: impl FnOnce(&mut FileSourceConfig),
) -> FileSource {
    let mut config = FileSourceConfig::new(paths.iter().copied());
    change(&mut config);
    FileSource::new(&config, &context(dir, store.clone())).unwrap()
}

#[tokio::test]
async fn files_are_read_in_order_and_lines_say_where_they_stood() {
    let dir = dir(&[("b.txt", "b1\n\nb3"), ("a.txt", "a1\r\na2\n"), ("z.log", "z\n")]);
    let mut source = source(dir.path(), &memory(), &["z.log", "*.txt", "a.txt"], |_| {});

    let lines = all(&mut source).await;

    let seen: Vec<_> = lines
        .iter()
        .map(|line| {
            let meta = |name| line.metadata().get(name).unwrap();
            (
                std::str::from_utf8(&line.payload).unwrap(),
                Path::new(meta("file_path")).file_name().unwrap().to_str().unwrap(),
                meta("file_line"),
                meta("file_offset"),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("z", "z.log", "1", "0"),
            ("a1", "a.txt", "1", "0"),
            ("a2", "a.txt", "2", "4"),
            ("b1", "b.txt", "1", "0"),
            ("", "b.txt", "2", "3"),
            ("b3", "b.txt", "3", "4"),
        ]
    );
    assert!(lines[1].id().ends_with("a.txt:0"));
    assert_eq!(source.progress(), Some(Progress { done: 15, total: 15 }));
}

#[tokio::test]
async fn the_next_run_begins_at_the_first_line_that_was_not_settled() {
    let dir = dir(&[("a", "1\n2\n3\n4\n5\n")]);
    let store = memory();
    let mut first = source(dir.path(), &store, &["a"], |_| {});

    let mut lines = receive(&mut first, 4).await;
    // 1 and 2 are done, 3 is given back, 4 is done before it.
    ack(lines.remove(3)).await;
    ack(lines.remove(1)).await;
    ack(lines.remove(0)).await;
    lines.remove(0).settle(Disposition::Release).await.unwrap();
    first.close().await.unwrap();
    let mut second = source(dir.path(), &store, &["a"], |_| {});
    let again = all(&mut second).await;

    let seen: Vec<_> = again
        .iter()
        .map(|line| {
            (
                texts(std::slice::from_ref(line))[0],
                line.metadata().get("file_line").unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, [("3", "3"), ("4", "4"), ("5", "5")]);
}

#[tokio::test]
async fn the_late_end_of_a_line_is_no_empty_line() {
    for (end, first) in [("\n", "b\n"), ("\r\n", "b\r\n"), ("", "\nb\n")] {
        let dir = dir(&[("a", "a")]);
        let (file, store) = (dir.path().join("a"), memory());
        if end.is_empty() {
            std::fs::write(&file, "a\n").unwrap();
        }
        let mut run = source(dir.path(), &store, &["a"], |_| {});
        assert_eq!(texts(&all(&mut run).await), ["a"]);
        run.close().await.unwrap();

        std::fs::write(
            &file,
            format!("a{end}{}{first}", if end.is_empty() { "\n" } else { "" }),
        )
        .unwrap();
        let mut next = source(dir.path(), &store, &["a"], |_| {});
        let lines = all(&mut next).await;

        let expected: &[&str] = if end.is_empty() { &["", "b"] } else { &["b"] };
        assert_eq!(texts(&lines), expected, "{end:?}");
        assert_eq!(lines[0].metadata().get("file_line"), Some("2"));
    }
}

#[tokio::test]
async fn a_line_that_is_given_back_comes_again_before_the_end() {
    let dir = dir(&[("a", "1\n2\n3\n")]);
    let mut source = source(dir.path(), &memory(), &["a"], |_| {});

    let mut lines = receive(&mut source, 3).await;
    drop(lines.remove(1));
    lines.remove(1).settle(Disposition::Release).await.unwrap();
    let again = receive(&mut source, 2).await;
    ack(lines.remove(0)).await;

    assert_eq!(
        again.iter().map(text).collect::<HashSet<_>>(),
        HashSet::from(["2", "3"])
    );
    assert!(
        source.receive(1).now_or_never().is_none(),
        "the end waits for what is not settled"
    );
    for line in again {
        ack(line).await;
    }
    assert!(matches!(source.receive(1).await.unwrap(), Received::End));
}

#[tokio::test]
async fn the_battery_holds() {
    source_battery(async || {
        // The file appears when something is published.
        let dir = dir(&[]);
        let source = source(dir.path(), &memory(), &["a"], |_| {});
        Bench::new(source, move |payloads| {
            let text: String = payloads
                .iter()
                .map(|line| format!("{}\n", String::from_utf8_lossy(line)))
                .collect();
            let path = dir.path().join("a");
            Box::pin(async move { tokio::fs::write(path, text).await.unwrap() })
        })
    })
    .await;
}

#[tokio::test]
async fn a_pipeline_works_files_off_and_goes_on_where_it_was_stopped() {
    let content: String = (0..500).map(|line| format!("{line}\n")).collect();
    let dir = dir(&[("a", &content)]);
    let store = memory();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let pipeline = |stop_after: usize| {
        let (seen, stop) = (seen.clone(), Arc::new(tokio::sync::Notify::new()));
        let enough = stop.clone();
        let sink = sink_fn(move |message: Message| {
            let count = {
                let mut seen = seen.lock().unwrap();
                seen.push(texts(&[message])[0].parse::<u32>().unwrap());
                seen.len()
            };
            if count == stop_after {
                enough.notify_one();
            }
            async {
                tokio::task::yield_now().await;
                Ok::<_, BoxError>(())
            }
        });
        let source = source(dir.path(), &store, &["a"], |_| {});
        let pipeline = Pipeline::builder("p")
            .source(source)
            .sink(sink)
            .store(store.clone())
            .concurrency(8)
            .build()
            .unwrap();
        pipeline.run_until(async move { stop.notified().await })
    };

    let first = pipeline(100).await.unwrap();
    let between = seen.lock().unwrap().len();
    let second = pipeline(usize::MAX).await.unwrap();

    assert!((100..200).contains(&between), "{first:?}");
    assert!(second.delivered < 500, "{second:?}");
    let seen: HashSet<_> = seen.lock().unwrap().iter().copied().collect();
    assert_eq!(seen, (0..500).collect());
}

#[tokio::test(start_paused = true)]
async fn a_position_is_saved_soon_even_without_a_close() {
    let dir = dir(&[("a", "1\n2\n3\n")]);
    let store = memory();
    let mut first = source(dir.path(), &store, &["a"], |_| {});

    let mut lines = receive(&mut first, 2).await;
    ack(lines.remove(0)).await;
    tokio::time::sleep(Duration::from_millis(201)).await;
    let mut second = source(dir.path(), &store, &["a"], |_| {});

    assert_eq!(texts(&all(&mut second).await), ["2", "3"]);
}

#[tokio::test]
async fn settling_after_close_is_saved_at_once() {
    let dir = dir(&[("a", "1\n2\n")]);
    let store = memory();
    let mut first = source(dir.path(), &store, &["a"], |_| {});

    let mut lines = receive(&mut first, 2).await;
    first.close().await.unwrap();
    ack(lines.remove(0)).await;
    let mut second = source(dir.path(), &store, &["a"], |_| {});

    assert_eq!(texts(&all(&mut second).await), ["2"]);
}

#[tokio::test]
async fn a_finished_file_gives_only_what_was_appended_unless_told_to_begin_anew() {
    let dir = dir(&[("a", "1\n2\n")]);
    let store = memory();
    let run = async |from: Begin| {
        let mut source = source(dir.path(), &store, &["a"], |config| config.from = from);
        let lines = all(&mut source).await;
        source.close().await.unwrap();
        texts(&lines).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };

    assert_eq!(run(Begin::Saved).await, ["1", "2"]);
    assert_eq!(run(Begin::Saved).await, Vec::<String>::new());
    std::fs::write(dir.path().join("a"), "1\n2\n3\n").unwrap();
    assert_eq!(run(Begin::Saved).await, ["3"]);
    assert_eq!(run(Begin::Start).await, ["1", "2", "3"]);
    std::fs::write(dir.path().join("a"), "new\n").unwrap();
    assert_eq!(run(Begin::Saved).await, ["new"]);
}

#[tokio::test]
async fn a_file_that_was_replaced_by_a_longer_one_is_read_from_its_start() {
    // Over and below the 256 bytes that tell a file.
    for line in ["old", &"old ".repeat(200)] {
        let dir = dir(&[("a", &format!("{line}\n"))]);
        let (path, store) = (dir.path().join("a"), memory());
        let run = async || {
            let mut source = source(dir.path(), &store, &["a"], |_| {});
            let lines = all(&mut source).await;
            source.close().await.unwrap();
            texts(&lines).into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(run().await, [line]);
        std::fs::write(&path, format!("{line}\nappended\n")).unwrap();
        assert_eq!(run().await, ["appended"], "what only grew is the same file");

        let new: Vec<_> = (0..500).map(|n| format!("new {n}")).collect();
        std::fs::write(&path, new.join("\n")).unwrap();
        let (logs, gathering) = Logs::gather();
        assert_eq!(run().await, new);

        drop(gathering);
        assert_eq!(logs.count("WARN", "read from the start"), 1);
        assert_eq!(run().await, Vec::<String>::new());
    }
}

/// A run that ended before anything was settled leaves no old position to a new file.
#[tokio::test]
async fn a_replaced_file_stays_replaced_after_a_run_that_settled_nothing() {
    let dir = dir(&[("a", "old 1\nold 2\n")]);
    let store = memory();
    let mut first = source(dir.path(), &store, &["a"], |_| {});
    all(&mut first).await;
    first.close().await.unwrap();
    std::fs::write(dir.path().join("a"), "new 1\nnew 2\nnew 3\n").unwrap();

    let mut second = source(dir.path(), &store, &["a"], |_| {});
    drop(receive(&mut second, 1).await);
    drop(second);
    let mut third = source(dir.path(), &store, &["a"], |_| {});

    assert_eq!(texts(&all(&mut third).await), ["new 1", "new 2", "new 3"]);
}

#[tokio::test]
async fn a_file_that_was_cut_short_has_no_old_position_when_it_grows() {
    let lines = |range: std::ops::Range<usize>| -> Vec<_> { range.map(|n| format!("line {n:03}\n")).collect() };
    let dir = dir(&[("a", &lines(0..60).concat())]);
    let (path, store) = (dir.path().join("a"), memory());
    let mut first = source(dir.path(), &store, &["a"], |_| {});
    all(&mut first).await;
    first.close().await.unwrap();
    // Its first bytes stay, and nothing of it is settled.
    std::fs::write(&path, lines(0..40).concat()).unwrap();
    let mut second = source(dir.path(), &store, &["a"], |_| {});
    drop(receive(&mut second, 1).await);
    drop(second);

    std::fs::write(&path, lines(0..80).concat()).unwrap();
    let mut third = source(dir.path(), &store, &["a"], |_| {});

    assert_eq!(all(&mut third).await.len(), 80);
}

#[tokio::test]
async fn rejected_lines_become_dead_letters_and_do_not_hold_the_position_back() {
    let dir = dir(&[("a", "{}\nnot json\n")]);
    let store = memory();
    let mut first = source(dir.path(), &store, &["a"], |config| config.format = Format::Ndjson);

    all(&mut first).await;
    first.close().await.unwrap();

    let letters = store
        .dead_letters()
        .list(&DeadLetterFilter::default(), 0, 10)
        .await
        .unwrap();
    assert_eq!((letters.len(), &letters[0].payload[..]), (1, &b"not json"[..]));
    let mut second = source(dir.path(), &store, &["a"], |config| config.format = Format::Ndjson);
    assert!(all(&mut second).await.is_empty());
}

#[tokio::test]
async fn a_file_that_is_not_there_is_a_clear_error() {
    let dir = dir(&[("a", "1\n")]);
    for (path, words) in [("b.txt", "there is no file"), ("*.txt", "no file matches *.txt")] {
        let mut source = source(dir.path(), &memory(), &["a", path], |_| {});

        let probed = source.probe().await.unwrap_err().to_string();
        let received = source.receive(1).await.unwrap_err().to_string();

        assert!(probed.contains(words) && received.contains(words), "{probed}");
    }
    source(dir.path(), &memory(), &["a"], |_| {}).probe().await.unwrap();
}

#[tokio::test]
async fn a_run_whose_file_is_not_there_ends_or_waits_as_the_file_says() {
    let dir = dir(&[("a", "1\n")]);

    for path in ["b.txt", "*.txt"] {
        let ended = source(dir.path(), &memory(), &["a", path], |_| {})
            .open()
            .await
            .unwrap_err();
        let mut waiting = source(dir.path(), &memory(), &["a", path], |config| {
            config.missing = Missing::Wait
        });
        waiting.open().await.unwrap();

        assert_eq!(
            (ended.class(), ended.code().map(SmolStr::as_str)),
            (Class::Permanent, Some("missing"))
        );
        assert!(ended.to_string().contains("missing = \"wait\""), "{ended}");
        assert_eq!(waiting.receive(1).await.unwrap_err().class(), Class::Unavailable);
        std::fs::write(dir.path().join("b.txt"), "2\n").unwrap();
        assert_eq!(texts(&all(&mut waiting).await), ["1", "2"]);
        std::fs::remove_file(dir.path().join("b.txt")).unwrap();
    }
}

#[tokio::test]
async fn a_receive_that_is_dropped_loses_no_line() {
    let content: String = (0..20_000).map(|line| format!("line {line}\n")).collect();
    let dir = dir(&[("a", &content)]);
    let mut source = source(dir.path(), &memory(), &["a"], |_| {});

    let mut seen = Vec::new();
    while seen.len() < 20_000 {
        tokio::select! {
            biased;
            received = source.receive(100) => {
                let Received::Batch(batch) = received.unwrap() else { break };
                for line in batch {
                    seen.push(text(&line).to_owned());
                    ack(line).await;
                }
            }
            () = tokio::task::yield_now() => {}
        }
    }

    assert!(
        seen.iter()
            .enumerate()
            .all(|(number, line)| *line == format!("line {number}"))
    );
}

#[test]
fn mistakes_name_their_field() {
    let context = context(".".as_ref(), memory());
    let field = |paths: &[&str]| {
        let config = FileSourceConfig::new(paths.iter().copied());
        FileSource::new(&config, &context).unwrap_err().field.unwrap()
    };

    assert_eq!(field(&[]), "paths");
    assert_eq!(field(&["a", "b["]), "paths.1");
}
