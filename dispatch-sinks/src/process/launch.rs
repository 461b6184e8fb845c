//! Starting one worker: its pipes, its environment, its process.

use std::{
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use command_fds::{CommandFdExt as _, FdMapping};
use dispatch_core::config::ConfigError;
use futures::future::BoxFuture;
use tokio::{net::unix::pipe, process::Command};

use super::{
    ProcessSinkConfig,
    config::{Output, Shim, StartMethod},
    error::StartError,
    files::Files,
    process::{Exit, Handle},
    zygote::Zygote,
};

/// The numbers of a worker's descriptors.
const TASKS: i32 = 3;
const EVENTS: i32 = 4;

/// Starts workers.
pub(super) struct Launcher {
    /// A worker of the user's own; else it is Python.
    command: Vec<String>,
    python: String,
    shim: Shim,
    method: StartMethod,
    preload: String,
    environment: [(&'static str, String); 3],
    directory: Option<PathBuf>,
    log: bool,
    files: Mutex<Option<Arc<Files>>>,
    /// The running one and its number.
    zygote: tokio::sync::Mutex<(u64, Option<Arc<Zygote>>)>,
}

/// A worker that has been started.
pub(super) struct Launched {
    pub(super) process: Arc<Handle>,
    pub(super) tasks: pipe::Sender,
    pub(super) events: pipe::Receiver,
    /// What it prints, unless that is inherited.
    pub(super) printed: Vec<(&'static str, pipe::Receiver)>,
    /// Ends when it does.
    pub(super) exit: BoxFuture<'static, Exit>,
    /// The number of the zygote that it is a fork of.
    pub(super) zygote: Option<u64>,
}

/// Both ends of a worker's pipes.
struct Pipes {
    tasks: pipe::Sender,
    events: pipe::Receiver,
    printed: Vec<(&'static str, pipe::Receiver)>,
    /// The worker's 3 and 4, and 1 and 2 where they are not inherited.
    theirs: Vec<OwnedFd>,
}

impl Launcher {
    pub(super) fn new(config: &ProcessSinkConfig, base_dir: &std::path::Path) -> Result<Self, ConfigError> {
        let own = !config.command.is_empty();
        let mut command = config.command.clone();
        let moved = base_dir != std::path::Path::new(".");
        // What a relative path starts from once the directory was changed differs between systems.
        let placed = |program: &String| {
            let path = base_dir.join(program).to_string_lossy().into_owned();
            if program.contains('/') && moved {
                path
            } else {
                program.clone()
            }
        };
        if let Some(program) = command.first_mut() {
            *program = placed(program);
        }
        Ok(Self {
            command,
            python: placed(&config.python),
            shim: config.shim(),
            method: if own {
                StartMethod::Spawn
            } else {
                config.start_method.unwrap_or(StartMethod::Zygote)
            },
            preload: config.preload.join(","),
            // Always all of them: what dispatch itself was started with is not for its workers.
            environment: [
                ("DISPATCH_WORKER_SETTINGS", config.settings_json()?),
                ("DISPATCH_TASK_ALLOW", config.task_allow.join(",")),
                ("DISPATCH_LAMBDA_TASKS", u8::from(config.lambda_tasks).to_string()),
            ],
            directory: moved.then(|| base_dir.to_owned()),
            log: config.output == Output::Log,
            files: Mutex::new(None),
            zygote: tokio::sync::Mutex::default(),
        })
    }

    /// The program, for a person.
    pub(super) fn program(&self) -> &str {
        self.command.first().unwrap_or(&self.python)
    }

    /// Starts a worker; `zygote_gone` is called at the end of the zygote that this starts, if it starts one.
    pub(super) async fn launch(
        &self,
        worker: u64,
        zygote_gone: impl FnOnce(u64) + Send + 'static,
    ) -> Result<Launched, StartError> {
        let pipes = Pipes::new(self.log).map_err(StartError::Pipes)?;
        match self.method {
            StartMethod::Spawn => self.spawn(worker, pipes),
            StartMethod::Zygote => self.fork(worker, pipes, zygote_gone).await,
        }
    }

    fn spawn(&self, worker: u64, pipes: Pipes) -> Result<Launched, StartError> {
        let mut command = match self.command.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
            None => self.python(self.files()?.worker(self.shim)),
        };
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        self.furnish(&mut command);
        let numbers = [TASKS, EVENTS, 1, 2];
        let mappings = pipes.theirs.into_iter().zip(numbers);
        let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        command
            .env("DISPATCH_WORKER_ID", worker.to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .process_group(0)
            .fd_mappings(mappings.collect())
            .map_err(|_| StartError::Pipes(io::Error::other("two descriptors want one number")))?;
        let mut child = command
            .spawn()
            .map_err(|source| StartError::Program { program, source })?;
        // With it go our copies of the worker's ends.
        drop(command);
        // It has not been waited for, so its number is its own.
        let process = Handle::of(child.id()).ok_or_else(|| StartError::Refused("it has no number".to_owned()))?;
        Ok(Launched {
            process: Arc::new(process),
            tasks: pipes.tasks,
            events: pipes.events,
            printed: pipes.printed,
            exit: Box::pin(async move { child.wait().await.map_or(Exit::Unknown, Exit::from) }),
            zygote: None,
        })
    }

    async fn fork(
        &self,
        worker: u64,
        pipes: Pipes,
        zygote_gone: impl FnOnce(u64) + Send + 'static,
    ) -> Result<Launched, StartError> {
        let (number, zygote) = {
            let mut running = self.zygote.lock().await;
            let (number, zygote) = &mut *running;
            match zygote.as_ref().filter(|zygote| !zygote.is_gone()) {
                Some(zygote) => (*number, Arc::clone(zygote)),
                None => {
                    let mut command = self.python(self.files()?.zygote());
                    self.furnish(&mut command);
                    command.env("DISPATCH_PRELOAD", &self.preload);
                    *number += 1;
                    let number = *number;
                    let started = Zygote::start(command, self.log, move || zygote_gone(number))?;
                    (number, Arc::clone(zygote.insert(Arc::new(started))))
                }
            }
        };
        let forked = zygote.fork(worker, self.shim, pipes.theirs).await?;
        let process = u32::try_from(forked.pid).ok().and_then(|pid| Handle::of(Some(pid)));
        let process = Arc::new(process.ok_or_else(|| StartError::Refused("it has no number".to_owned()))?);
        let watched = Arc::clone(&process);
        let exit = async move {
            match forked.exit.await {
                Ok(exit) => exit,
                // The zygote is gone: nobody reports any more.
                Err(_) => watched.orphaned().await,
            }
        };
        Ok(Launched {
            process,
            tasks: pipes.tasks,
            events: pipes.events,
            printed: pipes.printed,
            exit: Box::pin(exit),
            zygote: Some(number),
        })
    }

    fn python(&self, script: PathBuf) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(script);
        command
    }

    fn furnish(&self, command: &mut Command) {
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
    }

    fn files(&self) -> Result<Arc<Files>, StartError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &*files {
            return Ok(Arc::clone(files));
        }
        let written = Arc::new(Files::write().map_err(StartError::Files)?);
        Ok(Arc::clone(files.insert(written)))
    }

    /// Ends the zygote and removes the workers' files.
    pub(super) async fn close(&self) {
        let zygote = self.zygote.lock().await.1.take();
        if let Some(zygote) = zygote.and_then(Arc::into_inner) {
            zygote.end().await;
        }
        self.files.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether the program can be found.
    pub(super) fn find(&self) -> Result<(), StartError> {
        let program = self.program();
        let found = if program.contains('/') {
            std::path::Path::new(program).is_file()
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
        };
        if found {
            return Ok(());
        }
        Err(StartError::Program {
            program: program.to_owned(),
            source: io::ErrorKind::NotFound.into(),
        })
    }
}

impl Pipes {
    fn new(log: bool) -> io::Result<Self> {
        let (their_tasks, our_tasks) = io::pipe()?;
        let (our_events, their_events) = io::pipe()?;
        let mut theirs = vec![their_tasks.into(), their_events.into()];
        let mut printed = Vec::new();
        for stream in ["stdout", "stderr"].into_iter().filter(|_| log) {
            let (ours, their) = io::pipe()?;
            theirs.push(their.into());
            printed.push((stream, pipe::Receiver::from_owned_fd(ours.into())?));
        }
        Ok(Self {
            tasks: pipe::Sender::from_owned_fd(our_tasks.into())?,
            events: pipe::Receiver::from_owned_fd(our_events.into())?,
            printed,
            theirs,
        })
    }
}
