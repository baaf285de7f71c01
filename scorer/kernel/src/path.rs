//! Which instructions the arithmetic is compiled to. The bits of every result are the same on all paths.

use std::sync::OnceLock;

use crate::Invalid;
use crate::exp::{Exp, Function, Tanh, over};
use crate::lanes::{Lanes, Portable};

/// The environment variable that names a path, so that one can be forced.
pub const PATH_VARIABLE: &str = "FLEETSCORE_KERNEL";

/// A set of instructions the decision function can run on; its results do not depend on which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// 512-bit registers of x86-64.
    Avx512,
    /// 256-bit registers of x86-64.
    Avx2,
    /// What the target has at least: runs everywhere.
    Portable,
}

impl Path {
    /// All of them, the widest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// The name, as `FLEETSCORE_KERNEL` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Whether this machine has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// Those this machine has, the widest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|p| p.is_available()).collect()
    }

    /// The path that scoring takes: the one `FLEETSCORE_KERNEL` names, or else the widest. The variable is read once;
    /// what [`Path::configured`] would refuse is passed over.
    pub fn detected() -> Self {
        static DETECTED: OnceLock<Path> = OnceLock::new();
        *DETECTED.get_or_init(|| Self::configured().unwrap_or_else(|_| Self::widest()))
    }

    /// What the environment asks for, for a program to check when it starts.
    ///
    /// # Errors
    /// [`Invalid`] where `FLEETSCORE_KERNEL` names no path, or one that this machine lacks.
    pub fn configured() -> Result<Self, Invalid> {
        let Some(asked) = std::env::var_os(PATH_VARIABLE).filter(|v| !v.is_empty()) else {
            return Ok(Self::widest());
        };
        let Some(path) = Self::ALL.into_iter().find(|p| asked == p.name()) else {
            let asked = asked.to_string_lossy();
            return Err(Invalid(format!("{PATH_VARIABLE} is {asked:?}: one of avx512, avx2 and portable")));
        };
        if !path.is_available() {
            return Err(Invalid(format!(
                "{PATH_VARIABLE} is {}, which this machine lacks: leave it out, or name portable",
                path.name()
            )));
        }
        Ok(path)
    }

    fn widest() -> Self {
        Self::ALL.into_iter().find(|p| p.is_available()).unwrap_or(Self::Portable)
    }

    /// exp of each number, at most 1 ulp from the true value, also where it is subnormal.
    ///
    /// # Panics
    /// If the lengths differ, or the machine lacks the path.
    pub fn exp(self, x: &[f64], out: &mut [f64]) {
        assert_eq!(x.len(), out.len(), "one result for each number");
        self.run(Over(x, out, Exp));
    }

    /// tanh of each number, at most 3 ulp from the true value.
    ///
    /// # Panics
    /// If the lengths differ, or the machine lacks the path.
    pub fn tanh(self, x: &[f64], out: &mut [f64]) {
        assert_eq!(x.len(), out.len(), "one result for each number");
        self.run(Over(x, out, Tanh));
    }

    /// Runs a task compiled for this path.
    pub(crate) fn run<T: Task>(self, task: T) -> T::Output {
        assert!(self.is_available(), "this machine has no {} instructions", self.name());
        match self {
            // SAFETY: the instructions are there, as just checked.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { on_avx512(task) },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { on_avx2(task) },
            _ => task.run::<Portable>(),
        }
    }
}

/// Something to do in lanes of any width.
pub(crate) trait Task {
    /// What comes of it.
    type Output;
    /// Does it; `inline(always)`, so that it is compiled with the instructions of its caller.
    fn run<V: Lanes>(self) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn on_avx512<T: Task>(task: T) -> T::Output {
    task.run::<crate::lanes_x86::Avx512>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn on_avx2<T: Task>(task: T) -> T::Output {
    task.run::<crate::lanes_x86::Avx2>()
}

/// A function over a slice.
struct Over<'a, F>(&'a [f64], &'a mut [f64], F);

impl<F: Function> Task for Over<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self) {
        over::<V, F>(self.0, self.1);
    }
}
