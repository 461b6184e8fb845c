//! What a person sees: the binary on a terminal of its own.

use std::{
    io::Read as _,
    process::{Child, Stdio},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::support::{LONG, Worker, command, dir, file_to, found_within, lines};

/// The binary on a terminal of 120 columns, and what has appeared there.
struct Terminal {
    child: Child,
    shown: std::sync::Arc<std::sync::Mutex<String>>,
    reader: std::thread::JoinHandle<()>,
}

impl Terminal {
    fn start(dir: &std::path::Path, args: &[&str]) -> Self {
        let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&near).unwrap();
        unlockpt(&near).unwrap();
        let size = Winsize {
            ws_row: 40,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&near, size).unwrap();
        let name = ptsname(&near, Vec::new()).unwrap();
        let far = || {
            let far = std::fs::File::options()
                .read(true)
                .write(true)
                .open(name.to_str().unwrap());
            Stdio::from(far.unwrap())
        };
        let mut command = command(dir, args);
        command.env("TERM", "xterm").stdin(far()).stdout(far()).stderr(far());
        let child = command.spawn().unwrap();
        // Its ends of the terminal are closed here, so that ours ends with it.
        drop(command);
        let shown = std::sync::Arc::<std::sync::Mutex<String>>::default();
        let screen = shown.clone();
        let reader = std::thread::spawn(move || {
            let (mut near, mut buffer) = (std::fs::File::from(near), [0; 4096]);
            // The end of the last writer is an error here, not an end of file.
            while let Ok(count @ 1..) = near.read(&mut buffer) {
                screen
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { child, shown, reader }
    }

    async fn shows(&self, part: &str) {
        let found = || self.shown.lock().unwrap().contains(part).then_some(());
        assert!(
            found_within(LONG, found).await.is_some(),
            "{part}: {:?}",
            self.shown.lock().unwrap()
        );
    }

    fn ends(mut self) -> (i32, String) {
        let status = self.child.wait().unwrap();
        self.reader.join().unwrap();
        (status.code().unwrap_or(-1), self.shown.lock().unwrap().clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounded_run_shows_a_bar_and_a_table_at_the_end() {
    let worker = Worker::start().await;
    worker.hold();
    let dir = dir(&[("in.txt", &lines(30)), ("p.toml", &file_to(&worker))]);

    let terminal = Terminal::start(dir.path(), &["run", "p.toml"]);
    // All of the file is read, and nothing of it done.
    terminal.shows("in flight 30  delivered 0").await;
    terminal.shows("100%").await;
    worker.let_go();
    let (code, shown) = terminal.ends();

    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("[====================]"), "{shown:?}");
    let table = shown.rsplit("pipeline  received").next().unwrap();
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().take(7).collect();
    assert_eq!(row, ["p", "30", "30", "0", "0", "0", "0"], "{shown:?}");
    assert!(!shown.contains("{\"timestamp\""), "people get text: {shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_by_ctrl_c_is_told_where_the_line_stood() {
    let worker = Worker::start().await;
    worker.hold();
    let dir = dir(&[("in.txt", &lines(3)), ("p.toml", &file_to(&worker))]);
    let terminal = Terminal::start(dir.path(), &["run", "p.toml"]);
    terminal.shows("in flight 3").await;

    kill_process(Pid::from_child(&terminal.child), Signal::INT).unwrap();
    terminal.shows("draining; once more to end at once").await;
    worker.let_go();

    let (code, shown) = terminal.ends();
    assert_eq!(code, 0, "{shown}");
}
