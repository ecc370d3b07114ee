//! Survives what happens to mapped files: if another process shortens one, or its disk fails, reading the map raises
//! the signal SIGBUS, which ends a process that does not handle it.
//!
//! Every map of this crate is registered here while it lives. The handler of SIGBUS looks the address up: within a map
//! of ours it notes where the map failed, puts zero pages in place of the rest of it, and returns, so that the
//! interrupted read goes on with zeros. Whoever read asks [`Guard::failed_at`] before using what was read. Any other
//! address is none of our business: the handler that was there before is called, or the default is restored.
//!
//! The handler only loads and stores atomics, calls `mmap`, and keeps `errno`: all of it is safe in a signal handler.
//! It is installed when the first file is mapped, once, and stays.

#![cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]

use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock, PoisonError};

/// A registered map. Nodes are made once, used again, and never freed: the handler may look at any of them.
#[derive(Debug)]
struct Node {
    next: *const Node,
    taken: AtomicBool,
    /// Odd while `start` and `end` change, and another number after each change.
    version: AtomicU64,
    start: AtomicUsize,
    end: AtomicUsize,
    /// Offset of the first failed page, plus one; 0 if none has failed.
    failed: AtomicU64,
}

#[expect(unsafe_code, reason = "a list that the signal handler reads")]
// SAFETY: `next` is written before the node is published, and points to a node that lives for ever; all else is atomic.
unsafe impl Sync for Node {}

static NODES: AtomicPtr<Node> = AtomicPtr::new(null_mut());
/// Registering is rare, and never happens in the handler.
static REGISTER: Mutex<()> = Mutex::new(());
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static PAGE: AtomicUsize = AtomicUsize::new(4096);

/// All nodes, from the newest to the oldest.
fn nodes() -> impl Iterator<Item = &'static Node> {
    let mut next = NODES.load(SeqCst).cast_const();
    std::iter::from_fn(move || {
        #[expect(unsafe_code, reason = "nodes are never freed")]
        // SAFETY: null, or a node made by `Guard::new`, which leaked it after it was complete.
        let node: &'static Node = unsafe { next.as_ref() }?;
        next = node.next;
        Some(node)
    })
}

impl Node {
    fn set(&self, start: usize, end: usize) {
        self.version.fetch_add(1, SeqCst);
        self.start.store(start, SeqCst);
        self.end.store(end, SeqCst);
        self.version.fetch_add(1, SeqCst);
    }

    /// The range; `None` while it changes, when no thread reads the map.
    fn range(&self) -> Option<(usize, usize)> {
        let version = self.version.load(SeqCst);
        let range = (self.start.load(SeqCst), self.end.load(SeqCst));
        (version.is_multiple_of(2) && self.version.load(SeqCst) == version).then_some(range)
    }
}

/// Protects one map until it is dropped, which must be before the map is unmapped.
#[derive(Debug)]
pub(super) struct Guard {
    node: &'static Node,
}

impl Guard {
    /// Protects the map of `bytes`.
    pub(super) fn new(bytes: &[u8]) -> Self {
        let _lock = REGISTER.lock().unwrap_or_else(PoisonError::into_inner);
        install();
        let free = nodes().find(|node| !node.taken.load(SeqCst));
        let node = free.unwrap_or_else(|| {
            let node: &'static Node = Box::leak(Box::new(Node {
                next: NODES.load(SeqCst).cast_const(),
                taken: AtomicBool::new(false),
                version: AtomicU64::new(0),
                start: AtomicUsize::new(0),
                end: AtomicUsize::new(0),
                failed: AtomicU64::new(0),
            }));
            NODES.store(std::ptr::from_ref(node).cast_mut(), SeqCst);
            node
        });
        node.taken.store(true, SeqCst);
        node.failed.store(0, SeqCst);
        let start = bytes.as_ptr().addr();
        node.set(start, start.saturating_add(bytes.len()));
        Self { node }
    }

    /// Where the map failed first: what was read from there on may be zeros.
    pub(super) fn failed_at(&self) -> Option<u64> {
        self.node.failed.load(SeqCst).checked_sub(1)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.node.set(0, 0);
        self.node.taken.store(false, SeqCst);
    }
}

/// Installs the handler, once. If the system refuses, maps are as fragile as without it.
fn install() {
    if PREVIOUS.get().is_some() {
        return;
    }
    #[expect(unsafe_code, reason = "system calls")]
    // SAFETY: `sysconf` takes a number. `sigaction` is given valid structures: `old` is written by the first call, and
    // `new` holds a handler of the kind that SA_SIGINFO asks for; it is installed only after PREVIOUS is set.
    unsafe {
        let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(4096);
        PAGE.store(page.max(1), SeqCst);
        let mut old: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut old) != 0 {
            return;
        }
        PREVIOUS.get_or_init(|| old);
        let mut new: libc::sigaction = std::mem::zeroed();
        new.sa_sigaction = (on_bus_error as extern "C" fn(_, _, _)) as *const () as usize;
        new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut new.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const new, null_mut());
    }
}

/// Runs in whatever the thread was doing: no locks, no memory, no panics.
extern "C" fn on_bus_error(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    #[expect(unsafe_code, reason = "what the system hands to a signal handler")]
    // SAFETY: with SA_SIGINFO, `info` points to a siginfo_t that is valid during the call.
    let (address, code) = unsafe { ((*info).si_addr().addr(), (*info).si_code) };
    // Positive: raised by an access, not sent by a process.
    if code > 0 && repair(address) {
        return;
    }
    chain(signal, info, context);
}

/// Replaces the rest of the map that holds `address` by zeros. False if it is no map of ours.
fn repair(address: usize) -> bool {
    let found = nodes().find_map(|node| {
        let (start, end) = node.range()?;
        (start <= address && address < end).then_some((node, start, end))
    });
    let Some((node, start, end)) = found else {
        return false;
    };
    let page_bytes = PAGE.load(SeqCst);
    let page = address - address % page_bytes;
    // Not below the map's start, which is a multiple of the page size.
    let offset = (page.max(start) - start) as u64;
    // Before the zeros can be seen. The smallest offset stays.
    let mut failed = node.failed.load(SeqCst);
    while failed == 0 || failed > offset + 1 {
        match node
            .failed
            .compare_exchange(failed, offset + 1, SeqCst, SeqCst)
        {
            Ok(_) => break,
            Err(other) => failed = other,
        }
    }
    let saved = errno(None);
    #[expect(unsafe_code, reason = "system call")]
    // SAFETY: the range from `page` to `end`, rounded up to whole pages, is within the map of a live guard: the thread
    // that was interrupted reads it, so that it is mapped. It is only ever read, as plain bytes, and zeros are bytes.
    let mapped = unsafe {
        libc::mmap(
            std::ptr::without_provenance_mut(page),
            end - page,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        )
    };
    errno(Some(saved));
    mapped != libc::MAP_FAILED
}

/// The number of the last error of this thread; sets it if one is given.
fn errno(set: Option<i32>) -> i32 {
    #[expect(unsafe_code, reason = "system call")]
    // SAFETY: the pointer is to a number of this thread, valid as long as the thread.
    unsafe {
        #[cfg(target_os = "linux")]
        let number = libc::__errno_location();
        #[cfg(target_os = "android")]
        let number = libc::__errno();
        #[cfg(target_os = "macos")]
        let number = libc::__error();
        if let Some(set) = set {
            *number = set;
        }
        *number
    }
}

/// Hands the signal to the handler that was there before.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let handler = PREVIOUS.get().map_or(libc::SIG_DFL, |old| old.sa_sigaction);
    #[expect(unsafe_code, reason = "calls a foreign handler as the system would")]
    // SAFETY: `handler` is what `sigaction` returned, of the kind that its flags say, and is called with what the
    // system gave us. Without a handler, the default is restored: the access is repeated and ends the process.
    unsafe {
        if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
            let mut default: libc::sigaction = std::mem::zeroed();
            default.sa_sigaction = libc::SIG_DFL;
            libc::sigemptyset(&raw mut default.sa_mask);
            libc::sigaction(signal, &raw const default, null_mut());
            if (*info).si_code <= 0 {
                // Sent, not raised by an access: nothing would repeat it.
                libc::raise(signal);
            }
        } else if PREVIOUS
            .get()
            .is_some_and(|old| old.sa_flags & libc::SA_SIGINFO != 0)
        {
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                std::mem::transmute(handler);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
            handler(signal);
        }
    }
}
