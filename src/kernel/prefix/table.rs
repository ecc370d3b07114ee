//! The table of a stream: which range of symbols each of its 64 cells stands for (format-spec 7.1).
//!
//! A code tiles the alphabet 0..256 by aligned ranges of 2^k symbols. A tile has a prefix of at most 6 bits, so it owns
//! 2^(6 - prefix) of the 64 cells; tiles of more than one symbol own one cell and k further bits.

use std::cell::OnceCell;

use super::{Damage, Map};

/// Cells of a table: the values of the 6 bits that select one.
pub(super) const CELLS: usize = 64;
/// A nibble of the header that says: an empty range, whose log2 is in the next nibble.
const EMPTY: u8 = 15;

/// An aligned range of symbols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tile {
    first: u8,
    /// Log2 of the number of symbols, which is the number of further bits.
    bits: u8,
    /// Log2 of the number of cells: 6 - prefix; 0 if there is more than one symbol.
    cells_log2: u8,
}

impl Tile {
    fn len(self) -> u8 {
        6 - self.cells_log2 + self.bits
    }
}

/// The tiles of an alphabet, by their first symbol. Together they own 64 cells.
#[derive(Clone, Debug)]
pub(super) struct Code {
    tiles: [Tile; CELLS],
    num_tiles: usize,
}

/// What a decoder looks up: for every value of the low 6 bits of the window, the length of the code word in bits and
/// its first symbol; and what byte each symbol stands for.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Table {
    pub(super) len: [u8; CELLS],
    pub(super) first: [u8; CELLS],
    /// Which of the bits after the prefix are added to `first`: 2^(len - 6) - 1, or 0.
    pub(super) mask: [u8; CELLS],
    pub(super) map: [u8; 256],
    #[cfg(target_arch = "x86_64")]
    pub(super) rotated: Rotated,
    /// What `scalar.rs` looks up instead, once it is asked for.
    wide: OnceCell<Box<Wide>>,
}

/// `first`, `mask` and `map` of symbols whose bits are rotated right by two: what `avx512.rs` looks up.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Rotated {
    pub(super) first: [u8; CELLS],
    pub(super) mask: [u8; CELLS],
    /// All 0 unless bytes are listed: else a few instructions do the same.
    pub(super) map: [u8; 256],
}

#[cfg(target_arch = "x86_64")]
impl Rotated {
    const NONE: Self = Self {
        first: [0; CELLS],
        mask: [0; CELLS],
        map: [0; 256],
    };

    fn new(table: &Table, map: &Map) -> Self {
        let rotate = |symbols: [u8; CELLS]| symbols.map(|symbol| symbol.rotate_right(2));
        let mut rotated = Self {
            first: rotate(table.first),
            mask: rotate(table.mask),
            ..Self::NONE
        };
        if let Map::Listed(_) = map {
            for (symbol, byte) in (0..=255u8).zip(table.map) {
                rotated.map[usize::from(symbol.rotate_right(2))] = byte;
            }
        }
        rotated
    }
}

/// For every value of the low [`WIDE_BITS`] bits of a window, the length, and the byte above it; 0 if more bits matter.
pub(super) type Wide = [u16; 1 << WIDE_BITS];

/// Bits of a window that are looked up at once: few code words are longer.
pub(super) const WIDE_BITS: usize = 11;

/// Counts of the aligned ranges of the alphabet: a binary tree of 511 nodes with the root at 1.
struct Tree([u32; 512]);

impl Tree {
    fn new(counts: &[u32; 256]) -> Self {
        let mut nodes = [0; 512];
        nodes[256..].copy_from_slice(counts);
        for node in (1..256).rev() {
            nodes[node] = nodes[2 * node] + nodes[2 * node + 1];
        }
        Self(nodes)
    }

    /// The smallest range that holds all that `node` counts.
    fn shrink(&self, mut node: usize) -> usize {
        while node < 256 {
            node = match (self.0[2 * node], self.0[2 * node + 1]) {
                (0, _) => 2 * node + 1,
                (_, 0) => 2 * node,
                _ => break,
            };
        }
        node
    }

    fn tile(&self, node: usize, cells_log2: u8) -> Tile {
        let depth = node.ilog2();
        let bits = 8 - depth;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a symbol and a number up to 8"
        )]
        Tile {
            first: ((node << bits) - 256) as u8,
            bits: bits as u8,
            cells_log2,
        }
    }
}

/// A tile that may still grow: what one more cell for it saves.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Offer {
    /// Bits saved by each cell that it costs, times 64.
    gain: u64,
    node: usize,
    cells_log2: u8,
}

impl Code {
    /// A code for these counts, of which at least one is not 0: every symbol counted has a code word, and the total
    /// length is nearly the smallest possible. Sometimes [`Code::quick`] finds a better one. Cells go one by one to where one saves most bits: a range of several
    /// symbols is halved (a further bit less for each), a single symbol gets twice as many cells (a shorter prefix).
    pub(super) fn greedy(counts: &[u32; 256]) -> Self {
        let tree = Tree::new(counts);
        let offer = |node: usize, cells_log2: u8| Offer {
            gain: (u64::from(tree.0[node]) << 6) >> cells_log2,
            node,
            cells_log2,
        };
        let mut offers = std::collections::BinaryHeap::with_capacity(2 * CELLS);
        offers.push(offer(tree.shrink(1), 0));
        let mut left = CELLS - 1;
        let mut done = Vec::with_capacity(CELLS);
        while let Some(Offer {
            node, cells_log2, ..
        }) = offers.pop()
        {
            let cost = 1 << cells_log2;
            if cost > left {
                // Nothing later gives cells back.
                done.push(tree.tile(node, cells_log2));
            } else if node < 256 {
                offers.push(offer(tree.shrink(2 * node), 0));
                offers.push(offer(tree.shrink(2 * node + 1), 0));
                left -= 1;
            } else {
                offers.push(offer(node, cells_log2 + 1));
                left -= cost;
            }
        }
        // All 64 cells are given away: the cells of the tiles that could still grow are powers of two, and so the
        // smallest of them divides what is left.
        debug_assert_eq!(left, 0);
        done.sort_unstable_by_key(|tile| tile.first);
        let mut code = Self {
            tiles: [Tile::default(); CELLS],
            num_tiles: done.len(),
        };
        code.tiles[..done.len()].copy_from_slice(&done);
        code
    }

    /// Package-merge over these disjoint ranges: the shortest prefixes of at most 6 bits. A range whose prefix is shorter
    /// than 6 bits is halved until it is not or has one symbol. None if there are not 2 to 64 ranges.
    fn merge(tree: &Tree, nodes: &[usize]) -> Option<Self> {
        let num = nodes.len();
        if !(2..=CELLS).contains(&num) {
            return None;
        }
        let mut order = [0; CELLS];
        let order = &mut order[..num];
        order.copy_from_slice(nodes);
        order.sort_unstable_by_key(|node| tree.0[*node]);
        // Lists of packages, for each limit of length: their weights, and which of them are ranges themselves.
        let mut lists = [0u128; 6];
        let mut weights = [0u64; 2 * CELLS];
        let mut len = 0;
        for list in &mut lists {
            let pairs: [u64; CELLS] =
                std::array::from_fn(|pair| weights[2 * pair] + weights[2 * pair + 1]);
            let mut pairs = pairs[..len / 2].iter().copied().peekable();
            let mut ranges = order.iter().map(|node| u64::from(tree.0[*node])).peekable();
            len = 0;
            loop {
                let is_range = match (ranges.peek(), pairs.peek()) {
                    (Some(range), Some(pair)) => range <= pair,
                    (Some(_), None) => true,
                    (None, Some(_)) => false,
                    (None, None) => break,
                };
                *list |= u128::from(is_range) << len;
                let next = if is_range {
                    &mut ranges.next()
                } else {
                    &mut pairs.next()
                };
                weights[len] = next.unwrap_or_default();
                len += 1;
            }
        }
        let mut lens = [0u8; CELLS];
        let mut take = 2 * num - 2;
        for list in lists.iter().rev() {
            let taken = list & (u128::MAX >> (128 - take.min(128)));
            let ranges = taken.count_ones() as usize;
            lens[..ranges].iter_mut().for_each(|len| *len += 1);
            take = 2 * (take - ranges);
            if take == 0 {
                break;
            }
        }
        let mut code = Self {
            tiles: [Tile::default(); CELLS],
            num_tiles: 0,
        };
        for (node, len) in order.iter().zip(lens) {
            let tile = tree.tile(*node, 0);
            let halvings = tile.bits.min(6 - len);
            for part in 0..1u8 << halvings {
                let bits = tile.bits - halvings;
                *code.tiles.get_mut(code.num_tiles)? = Tile {
                    first: tile.first + (part << bits),
                    bits,
                    cells_log2: 6 - len - halvings,
                };
                code.num_tiles += 1;
            }
        }
        code.tiles[..code.num_tiles].sort_unstable_by_key(|tile| tile.first);
        Some(code)
    }

    /// A code for these counts that is found fast: the shortest prefixes for ranges of about a 32nd of all each. None
    /// where that makes more than 64 ranges.
    pub(super) fn quick(counts: &[u32; 256]) -> Option<Self> {
        let tree = Tree::new(counts);
        let most = tree.0[1] / 32;
        let mut nodes = [0; CELLS];
        let mut num = 0;
        // Ranges to be halved further.
        let mut stack = vec![tree.shrink(1)];
        while let Some(node) = stack.pop() {
            if node < 256 && tree.0[node] > most {
                stack.push(tree.shrink(2 * node));
                stack.push(tree.shrink(2 * node + 1));
            } else {
                *nodes.get_mut(num)? = node;
                num += 1;
            }
        }
        Self::merge(&tree, &nodes[..num])
    }

    fn tiles(&self) -> &[Tile] {
        &self.tiles[..self.num_tiles]
    }

    /// The number of bits that these counts of symbols take.
    pub(super) fn cost(&self, counts: &[u32; 256]) -> u64 {
        let mut bits = 0;
        for tile in self.tiles() {
            let first = usize::from(tile.first);
            let count: u64 = counts[first..first + (1 << tile.bits)]
                .iter()
                .map(|count| u64::from(*count))
                .sum();
            bits += count * u64::from(tile.len());
        }
        bits
    }

    /// Appends the nibbles of the header.
    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        let mut nibbles = Writer { out, half: false };
        let mut symbol = 0;
        for tile in self.tiles() {
            let first = usize::from(tile.first);
            nibbles.put_empty(symbol, first);
            nibbles.put(match tile.bits {
                0 => 6 - tile.cells_log2,
                bits => 6 + bits,
            });
            symbol = first + (1 << tile.bits);
        }
        nibbles.put_empty(symbol, 256);
    }

    /// Reads the nibbles at the start of `src`; returns the number of bytes they take.
    pub(super) fn parse(src: &[u8]) -> Result<(Self, usize), Damage> {
        let mut nibbles = Reader { src, taken: 0 };
        let mut code = Self {
            tiles: [Tile::default(); CELLS],
            num_tiles: 0,
        };
        let (mut symbol, mut cells) = (0usize, 0usize);
        while symbol < 256 {
            let nibble = nibbles.next()?;
            let bits = match nibble {
                EMPTY => nibbles.next()?,
                7.. => nibble - 6,
                _ => 0,
            };
            let end = symbol + (1 << bits);
            if end > 256 || symbol % (1 << bits) != 0 {
                return Err(Damage("a table whose ranges are not aligned"));
            }
            if nibble != EMPTY {
                let cells_log2 = 6u8.saturating_sub(nibble);
                cells += 1 << cells_log2;
                let tile = code
                    .tiles
                    .get_mut(code.num_tiles)
                    .ok_or(Damage("a table of more than 64 cells"))?;
                #[expect(clippy::cast_possible_truncation, reason = "below 256")]
                let first = symbol as u8;
                *tile = Tile {
                    first,
                    bits,
                    cells_log2,
                };
                code.num_tiles += 1;
            }
            symbol = end;
        }
        if cells != CELLS {
            return Err(Damage("a table that does not have 64 cells"));
        }
        if nibbles.taken % 2 == 1 && nibbles.next()? != 0 {
            return Err(Damage("a table that is not padded by zero"));
        }
        Ok((code, nibbles.taken / 2))
    }

    /// The cells: tiles of most cells first, in the order of the alphabet among equals; the cell at position p is
    /// selected by the 6 bits of p in reverse order.
    pub(super) fn table(&self, map: &Map) -> Table {
        let mut table = Table {
            len: [0; CELLS],
            first: [0; CELLS],
            mask: [0; CELLS],
            map: map.bytes(),
            #[cfg(target_arch = "x86_64")]
            rotated: Rotated::NONE,
            wide: OnceCell::new(),
        };
        // The first position of the tiles of 2^i cells.
        let mut positions = [0u8; 8];
        for tile in self.tiles() {
            positions[usize::from(tile.cells_log2)] += 1 << tile.cells_log2;
        }
        let mut position = 0;
        for cells in positions.iter_mut().rev() {
            position += std::mem::replace(cells, position);
        }
        for tile in self.tiles() {
            let position = &mut positions[usize::from(tile.cells_log2)];
            // In reverse order, neighbours are far from each other.
            let first = usize::from(position.reverse_bits() >> 2);
            *position += 1 << tile.cells_log2;
            #[expect(clippy::cast_possible_truncation, reason = "at most 255")]
            let mask = ((1u32 << tile.bits) - 1) as u8;
            for cell in (first..CELLS).step_by(CELLS >> tile.cells_log2) {
                table.len[cell] = tile.len();
                table.first[cell] = tile.first;
                table.mask[cell] = mask;
            }
        }
        #[cfg(target_arch = "x86_64")]
        {
            table.rotated = Rotated::new(&table, map);
        }
        table
    }
}

impl Table {
    /// The byte of a stream that has only one, which takes no bits.
    pub(super) fn only_byte(&self) -> Option<u8> {
        (self.len[0] == 0).then(|| self.map[usize::from(self.first[0])])
    }

    /// Made at the first call, and kept: a piece is decoded in many steps.
    pub(super) fn wide(&self) -> &Wide {
        self.wide.get_or_init(|| {
            // A row of cells for each value of the bits after the prefix.
            let mut wide = Box::new([0; 1 << WIDE_BITS]);
            let entry = |cell: usize, symbol: u8| {
                u16::from_le_bytes([self.len[cell], self.map[usize::from(symbol)]])
            };
            let singles: [u16; CELLS] = std::array::from_fn(|cell| match self.mask[cell] {
                0 => entry(cell, self.first[cell]),
                _ => 0,
            });
            wide.as_chunks_mut::<CELLS>().0.fill(singles);
            for cell in 0..CELLS {
                let (first, mask) = (self.first[cell], self.mask[cell]);
                if mask > 0 && usize::from(self.len[cell]) <= WIDE_BITS {
                    for (rest, to) in (0..).zip(wide[cell..].iter_mut().step_by(CELLS)) {
                        *to = entry(cell, first | rest & mask);
                    }
                }
            }
            wide
        })
    }

    /// The code word of each byte, lowest bit first, and its length; length 0 for bytes without one.
    pub(super) fn words(&self) -> Words {
        let mut words = Words {
            len: [0; 256],
            low: [0; 256],
            high: [0; 256],
        };
        for cell in 0..CELLS {
            for rest in 0..=self.mask[cell] {
                let byte = usize::from(self.map[usize::from(self.first[cell] | rest)]);
                let len = self.len[cell];
                // Only the low `len` bits of the cell are the code word: the other cells of the tile have them too.
                #[expect(clippy::cast_possible_truncation, reason = "a cell is below 64")]
                let word = (cell as u16 | u16::from(rest) << 6) & ((1 << len) - 1);
                [words.low[byte], words.high[byte]] = word.to_le_bytes();
                words.len[byte] = len;
            }
        }
        words
    }
}

/// What an encoder looks up for every byte: its code word as two bytes, and the length.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Words {
    pub(super) len: [u8; 256],
    pub(super) low: [u8; 256],
    pub(super) high: [u8; 256],
}

impl Words {
    /// A byte with the shortest code word: the padding of a last row.
    pub(super) fn shortest(&self) -> u8 {
        (0..=255u8)
            .filter(|byte| self.len[usize::from(*byte)] != 0)
            .min_by_key(|byte| self.len[usize::from(*byte)])
            .unwrap_or(0)
    }
}

/// Reads nibbles, the low one of a byte first.
struct Reader<'a> {
    src: &'a [u8],
    /// Nibbles.
    taken: usize,
}

impl Reader<'_> {
    #[inline]
    fn next(&mut self) -> Result<u8, Damage> {
        let byte = self
            .src
            .get(self.taken / 2)
            .ok_or(Damage("a table that ends early"))?;
        let nibble = byte >> (4 * (self.taken % 2)) & 15;
        self.taken += 1;
        Ok(nibble)
    }
}

/// Appends nibbles, the low one of a byte first.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    half: bool,
}

impl Writer<'_> {
    fn put(&mut self, nibble: u8) {
        if self.half
            && let Some(last) = self.out.last_mut()
        {
            *last |= nibble << 4;
        } else {
            self.out.push(nibble);
        }
        self.half = !self.half;
    }

    /// The symbols from `start` to `end`, which have no code word, as the longest aligned ranges.
    fn put_empty(&mut self, mut start: usize, end: usize) {
        while start < end {
            let mut log2 = start.trailing_zeros().min(8);
            while start + (1 << log2) > end {
                log2 -= 1;
            }
            self.put(EMPTY);
            #[expect(clippy::cast_possible_truncation, reason = "at most 8")]
            self.put(log2 as u8);
            start += 1 << log2;
        }
    }
}
