use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use dispatch_core::{
    Error, Headers, Message, Reply, Sink,
    config::{ConfigError, Template},
};
use tokio::{
    io::AsyncWriteExt as _,
    process::{ChildStdin, Command},
    time::timeout,
};

use super::{
    CommandSinkConfig, CommandSinkError,
    output::{Output, Tail},
    process::Process,
    wire::{self, ExitCodes},
};

/// How long output may still come from a process that left the group, once the one that we started has exited.
const LEFTOVERS: Duration = Duration::from_secs(1);

/// Runs one process per message. The module's page says what it gets and what its exit codes mean.
#[derive(Debug)]
pub struct CommandSink {
    program: String,
    arguments: Vec<Template>,
    env: BTreeMap<String, Template>,
    env_clear: bool,
    cwd: Option<PathBuf>,
    max_output: usize,
    exit_codes: ExitCodes,
}

impl CommandSink {
    /// Checks `config` and makes the sink; starts nothing. Relative paths start at `base_dir`.
    ///
    /// # Errors
    /// Names the field that is wrong: no program, a program made of fields, a variable's name, an exit code.
    pub fn new(config: &CommandSinkConfig, base_dir: &Path) -> Result<Self, ConfigError> {
        let Some((program, arguments)) = config.command.split_first() else {
            return Err(ConfigError::at("command", "no program is named")
                .help("write one such as [\"./work\", \"--id\", \"{{ id }}\"]"));
        };
        let program = program.as_literal().ok_or_else(|| {
            ConfigError::at("command.0", "a message may not choose the program")
                .help("let a fixed program take the field as an argument")
        })?;
        if program.is_empty() || program.contains('\0') {
            return Err(ConfigError::at("command.0", "the program has no name"));
        }
        if let Some(name) = config
            .env
            .keys()
            .find(|name| name.is_empty() || name.contains(['=', '\0']))
        {
            return Err(ConfigError::at(
                format!("env.{name}"),
                format!("\"{name}\" cannot name a variable"),
            ));
        }
        Ok(Self {
            // What a relative path starts from once the directory was changed differs between systems.
            program: if program.contains('/') && base_dir != Path::new(".") {
                base_dir.join(program).to_string_lossy().into_owned()
            } else {
                program.to_owned()
            },
            arguments: arguments.to_vec(),
            env: config.env.clone(),
            env_clear: config.env_clear,
            cwd: config.cwd.as_ref().map(|cwd| base_dir.join(cwd)),
            max_output: config.max_output.as_usize(),
            exit_codes: ExitCodes::new(&config.exit_codes)?,
        })
    }

    fn command(&self, message: &Message) -> Result<Command, Error> {
        let mut command = Command::new(&self.program);
        if self.env_clear {
            command.env_clear();
        }
        command.envs(wire::variables(message));
        for (number, argument) in self.arguments.iter().enumerate() {
            command.arg(fit(argument.render(message)?, || format!("argument {}", number + 1))?.as_ref());
        }
        for (name, value) in &self.env {
            command.env(
                name,
                fit(value.render(message)?, || format!("variable {name}"))?.as_ref(),
            );
        }
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(command)
    }

    fn not_started(&self, source: io::Error) -> CommandSinkError {
        if source.kind() == io::ErrorKind::ArgumentListTooLong {
            let place = "argument list".to_owned();
            return CommandSinkError::Unfit {
                place,
                reason: "it is longer than the system takes",
            };
        }
        CommandSinkError::Start {
            program: self.program.clone(),
            cwd_missing: self.cwd.as_ref().is_some_and(|cwd| !cwd.is_dir()),
            source,
        }
    }

    async fn run(&self, mut process: Process, payload: &Bytes) -> Result<Reply, CommandSinkError> {
        let (stdin, stdout, stderr) = {
            let child = &mut process.child;
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        };
        let (mut output, mut tail) = (Output::default(), Tail::default());
        let status = {
            let streams = async {
                tokio::try_join!(
                    feed(stdin, payload),
                    async {
                        match stdout {
                            Some(stdout) => output.read(stdout, self.max_output).await,
                            None => Ok(()),
                        }
                    },
                    async {
                        match stderr {
                            Some(stderr) => tail.read(stderr, &self.program).await,
                            None => Ok(()),
                        }
                    },
                )
                .map(drop)
            };
            tokio::pin!(streams);
            let followed = async {
                tokio::select! {
                    status = process.child.wait() => {
                        let status = status?;
                        // Whoever is left in the group holds the pipes open.
                        process.kill_rest();
                        timeout(LEFTOVERS, &mut streams).await.unwrap_or(Ok(()))?;
                        Ok(status)
                    }
                    read = &mut streams => {
                        read?;
                        process.child.wait().await
                    }
                }
            };
            followed.await.map_err(|source| CommandSinkError::Follow {
                program: self.program.clone(),
                source,
            })?
        };
        match self.exit_codes.verdict(status.code()).class(None) {
            None => {
                let mut headers = Headers::new();
                if output.cut {
                    tracing::warn!(
                        program = self.program,
                        max = self.max_output,
                        "output is longer than max_output and was cut"
                    );
                    headers.insert("dispatch-truncated", "true");
                }
                Ok(Reply::with_headers(output.into_bytes(), headers))
            }
            Some(class) => Err(CommandSinkError::Exit {
                program: self.program.clone(),
                status,
                class,
                stderr: tail.last_lines(),
            }),
        }
    }
}

/// Writes the payload. A process that does not want it closes its end, which is its right.
async fn feed(stdin: Option<ChildStdin>, payload: &[u8]) -> io::Result<()> {
    let Some(mut stdin) = stdin else {
        return Ok(());
    };
    match stdin.write_all(payload).await {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// A text that may be an argument or a variable.
fn fit(
    text: std::borrow::Cow<'_, str>,
    place: impl FnOnce() -> String,
) -> Result<std::borrow::Cow<'_, str>, CommandSinkError> {
    if text.contains('\0') {
        return Err(CommandSinkError::Unfit {
            place: place(),
            reason: "it has a NUL byte",
        });
    }
    Ok(text)
}

#[async_trait]
impl Sink for CommandSink {
    async fn send(&self, message: Message) -> Result<Reply, Error> {
        let process = Process::start(&mut self.command(&message)?).map_err(|source| self.not_started(source))?;
        Ok(self.run(process, &message.payload).await?)
    }

    /// Looks for the program; starts nothing.
    async fn probe(&self) -> Result<(), Error> {
        let found = if self.program.contains('/') {
            Path::new(&self.program).is_file()
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|dir| dir.join(&self.program).is_file())
        };
        let cwd_missing = self.cwd.as_ref().is_some_and(|cwd| !cwd.is_dir());
        if found && !cwd_missing {
            return Ok(());
        }
        Err(self.not_started(io::ErrorKind::NotFound.into()).into())
    }
}
