//! Child processes that never outlive the tests.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

/// A running child; stopped when dropped, and by the kernel if the tests die first.
#[derive(Debug)]
pub struct Process {
    child: Mutex<Child>,
    pid: i32,
    stop_signal: i32,
    /// Where its output goes.
    pub log: PathBuf,
}

impl Process {
    /// Starts it with its output in `log`.
    pub fn spawn(mut command: Command, log: &Path, stop_signal: i32) -> Self {
        let out = File::create(log).expect("a log file");
        let err = out.try_clone().expect("a second handle of the log");
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = spawn_for_good(command);
        Self { pid: child.id() as i32, child: Mutex::new(child), stop_signal, log: log.to_owned() }
    }

    /// Its process id.
    pub fn id(&self) -> i32 {
        self.pid
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&self, signal: i32) {
        let mut child = self.child.lock().expect("no test panics while it holds this lock");
        if matches!(child.try_wait(), Ok(None)) {
            // SAFETY: the child has not been waited for, so the pid is still its own.
            unsafe { libc::kill(self.pid, signal) };
        }
    }

    /// Whether it has set a handler for a signal by now, as Linux says: one that has just begun has none.
    pub fn catches(&self, signal: i32) -> bool {
        let caught =
            Status::of(self.pid).and_then(|status| u64::from_str_radix(status.line("SigCgt")?, 16).ok());
        caught.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
    }

    /// Its status if it has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().expect("no test panics while it holds this lock").try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub fn wait(&self, at_most: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < at_most {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Asks it to stop, and kills it if it does not.
    pub fn stop(&self) {
        self.signal(self.stop_signal);
        if self.wait(Duration::from_secs(10)).is_none() {
            self.signal(libc::SIGKILL);
            self.wait(Duration::from_secs(5));
        }
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it prints this.
    pub fn wait_for_output(&self, text: &str, at_most: Duration) {
        crate::wait_until(&format!("`{text}` in {}", self.log.display()), at_most, || {
            let output = self.output();
            if output.contains(text) {
                return Ok(());
            }
            if let Some(status) = self.ended() {
                panic!("it ended with {status} before it printed `{text}`:\n{output}");
            }
            Err(output)
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(libc::SIGCONT);
        self.stop();
    }
}

/// What the kernel says of a process that runs.
#[derive(Debug)]
pub struct Status(String);

impl Status {
    /// As it is now; `None` where the process is gone.
    pub fn of(pid: impl std::fmt::Display) -> Option<Self> {
        std::fs::read_to_string(format!("/proc/{pid}/status")).ok().map(Self)
    }

    fn line(&self, line: &str) -> Option<&str> {
        self.0.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')).map(str::trim)
    }

    /// A line that is a number, such as `Threads`.
    pub fn number(&self, line: &str) -> Option<u64> {
        self.line(line)?.trim_end_matches("kB").trim().parse().ok()
    }

    /// A line that is a size: `VmRSS`, `RssAnon`, or `VmHWM`, the most there ever was.
    pub fn bytes(&self, line: &str) -> Option<u64> {
        self.number(line).map(|kib| kib * 1024)
    }
}

/// Time of the processor that a process has had, with that of children that it has waited for: proc(5), fields 14 to 17 of
/// `stat`. A thread is `PID/task/TID`. `None` where it is gone.
pub fn cpu_time(pid: impl std::fmt::Display) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything: what follows it counts.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().filter_map(|f| f.parse::<f64>().ok()).sum::<f64>();
    // SAFETY: no preconditions.
    Some(Duration::from_secs_f64(ticks / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64))
}

/// Starts a child from a thread that lives as long as the tests: the kernel's death signal comes when the *thread* that
/// started a child ends, and the threads of single tests do.
fn spawn_for_good(command: Command) -> Child {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static KEEPER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                // The test that asked may have failed meanwhile.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let what = format!("{command:?}");
    let (answer, child) = mpsc::channel();
    keeper.lock().expect("nothing panics here").send((command, answer)).expect("the keeper never ends");
    child.recv().expect("the keeper answers").unwrap_or_else(|e| panic!("cannot start {what}: {e}"))
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// Makes a folder passable for a server that runs as another user.
pub fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))
        .expect("permissions of our own folder");
}
