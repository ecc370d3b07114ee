"""The order of samples, written from format-spec.md section 13 alone; makes the files in tests/data/orders.

Run it with the name of a set (v1, windows, packed, buckets) and the path to write, or without a path to print.
"""

import json
import sys
from pathlib import Path

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(x):
    z = (x + GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def hash2(a, b):
    return mix(mix(a) ^ b)


def sequence(key):
    while True:
        yield mix(key)
        key = (key + GOLDEN) & MASK


def shuffle(items, key):
    random = sequence(key)
    for i in range(len(items) - 1, 0, -1):
        j = (next(random) * (i + 1)) >> 64
        items[i], items[j] = items[j], items[i]


def bijection(n, key):
    bits = max(8, (n - 1).bit_length())
    low = bits // 2
    random = sequence(key)
    keys = [next(random) for _ in range(8)]

    def get(x):
        while True:
            a, b = x >> low, x & ((1 << low) - 1)
            for j in range(0, 8, 2):
                a ^= mix(b ^ keys[j]) % (1 << (bits - low))
                b ^= mix(a ^ keys[j + 1]) % (1 << low)
            x = (a << low) + b
            if x < n:
                return x

    return get


def rev(lane, lanes):
    factors, rest, f = [], lanes, 2
    while rest > 1:
        while rest % f == 0:
            factors.append(f)
            rest //= f
        f += 1
    out, unit = 0, lanes
    for f in factors:
        unit //= f
        out += (lane % f) * unit
        lane //= f
    return out


def chunks_of(shards):
    chunks, first = [], 0
    for num_samples, per_chunk in shards:
        for start in range(0, num_samples, per_chunk):
            chunks.append(range(first + start, first + min(start + per_chunk, num_samples)))
        first += num_samples
    return chunks


def windowed(chunks, window, lanes, key):
    """`chunks` has a list of items for each chunk."""
    full = [i for i, chunk in enumerate(chunks) if chunk]
    chunks = chunks[full[0] : full[-1] + 1]
    n, c = sum(map(len, chunks)), len(chunks)
    order = bijection(c, hash2(key, 1))
    s, places = [], []
    for place in range(c):
        chunk = chunks[order(place)]
        s += chunk
        places += [place] * len(chunk)
    most = max(1, min(lanes, window, c // 8, n))
    count = max(d for d in range(1, most + 1) if lanes % d == 0)
    lens = [n // count + (lane < n % count) for lane in range(count)]
    begins, begin = {}, 0
    for lane in sorted(range(count), key=lambda lane: rev(lane, count)):
        begins[lane] = begin
        begin += lens[lane]
    w = max(1, window // count)
    mean = max(1, -(-n // c))
    ramp = set()
    step = -(-mean // 8)
    while step < w * mean:
        ramp.add(step)
        step *= 2
    out = [None] * n
    for lane in range(count):
        begin, size = begins[lane], lens[lane]
        turn = min(w * mean, size) * lane // count
        where = list(range(begin + turn, begin + size)) + list(range(begin, begin + turn))
        blocks, first_place = [], None
        for i, q in enumerate(where):
            part_starts = i in (0, size - turn)
            if part_starts:
                first_place = places[q]
            new_group = not part_starts and places[q] != places[where[i - 1]]
            if new_group:
                group = (places[q] - first_place) // w
                new_group = group != (places[where[i - 1]] - first_place) // w
            if part_starts or new_group or i in ramp:
                blocks.append([])
            blocks[-1].append(q)
        index = 0
        for block in blocks:
            samples = [s[q] for q in block]
            shuffle(samples, hash2(hash2(key, 2), block[0]))
            for sample in samples:
                out[index * count + lane] = sample
                index += 1
    return out


def windows_of(case, sample):
    """Windows of a sample as (sample, first step); without windows, the sample."""
    if "steps" not in case:
        return [sample]
    length, stride = case["length"], case["stride"]
    return [(sample, s) for s in range(0, case["steps"][sample] - length + 1, stride)]


def packed(case, samples):
    """The windows of packed samples, each a list of [sample, first token, place in the window, tokens]."""
    stream = []
    for sample in samples:
        stream += [(sample, token) for token in range(case["steps"][sample] + case["separator"])]
    length = case["length"]
    count = -(-len(stream) // length) if case["pad"] else len(stream) // length
    windows = []
    for i in range(count):
        window = []
        for place, (sample, token) in enumerate(stream[i * length : (i + 1) * length]):
            if token == 0 or place == 0:
                window.append([sample, token, place, 0])
            window[-1][3] += 1
        windows.append(window)
    chunks = [i for i, chunk in enumerate(chunks_of(case["shards"])) if any(s in chunk for s in samples)]
    block = max(1, -(-count // (chunks[-1] - chunks[0] + 1)))
    return windows, [list(range(count))[i : i + block] for i in range(0, count, block)]


def samples_of(case):
    if case["selected"] is not None:
        return case["selected"]
    return list(range(sum(n for n, _ in case["shards"])))


def epoch(case):
    samples = samples_of(case)
    if "windows" in case:
        windows, chunks = packed(case, samples)
        case["windows"] = windows
        return passes(case, list(range(len(windows))), chunks)
    selected = [x for sample in samples for x in windows_of(case, sample)]
    chunks = []
    for chunk in chunks_of(case["shards"]):
        chunks.append(sorted(x for s in samples if s in chunk for x in windows_of(case, s)))
    return passes(case, selected, chunks)


def passes(case, selected, chunks):
    out = []
    for k in range(case["repeat"]):
        key = hash2(case["seed"], case["epoch"] * case["repeat"] + k)
        if case["shuffle"] == "none":
            out += selected
        elif case["shuffle"] == "exact":
            get = bijection(len(selected), key)
            out += [selected[get(p)] for p in range(len(selected))]
        else:
            out += windowed(chunks, case["window"], case["lanes"], key)
    return out


def bucketed(case, base):
    batch, lengths = case["global_batch"], case["lengths"]
    full = len(base) - len(base) % batch
    size = batch * case["pool_batches"]
    key = hash2(hash2(case["seed"], case["epoch"]), 3)
    out = []
    for pool, start in enumerate(range(0, full, size)):
        samples = sorted(base[start : min(start + size, full)], key=lambda sample: lengths[sample])
        batches = [samples[i : i + batch] for i in range(0, len(samples), batch)]
        if case["shuffle"] != "none":
            shuffle(batches, hash2(key, pool))
        out += sum(batches, [])
    return out + base[full:]


def cases():
    small = [[100, 7], [1, 16], [64, 16], [33, 5]]
    aligned = [[1024, 8], [256, 8]]
    many = [[300, 3], [401, 2], [1, 1], [700, 3]]
    for shards, selected in [
        (small, None),
        (aligned, None),
        (many, None),
        ([[3, 1]], None),
        ([[700, 300]], None),
        (small, list(range(20, 121))),
        (small, list(range(2, 198, 3))),
        (small, [9, 100, 9, 3, 197, 64]),
    ]:
        base = {"shards": shards, "selected": selected, "repeat": 1, "window": 64, "lanes": 64}
        yield base | {"shuffle": "none", "seed": 0, "epoch": 0}
        yield base | {"shuffle": "exact", "seed": 0, "epoch": 0}
        yield base | {"shuffle": "exact", "seed": MASK, "epoch": 3, "repeat": 2}
        for window, lanes in [(64, 64), (1, 64), (5, 64), (12, 4), (9, 2), (200, 12)]:
            case = base | {"shuffle": "windowed", "window": window, "lanes": lanes}
            yield case | {"seed": 1, "epoch": 2}
        yield base | {"shuffle": "windowed", "seed": 7, "epoch": 1, "repeat": 2}


def bucket_cases():
    small = [[100, 7], [1, 16], [64, 16], [33, 5]]
    lengths = [mix(i) % 20 for i in range(198)]
    base = {"shards": small, "selected": None, "repeat": 1, "window": 64, "lanes": 64, "lengths": lengths}
    for pool_batches in [1, 5, 100]:
        bucketing = base | {"global_batch": 8, "pool_batches": pool_batches}
        for shuffled in ["none", "exact", "windowed"]:
            yield bucketing | {"shuffle": shuffled, "seed": 5, "epoch": 1}
            yield bucketing | {"shuffle": shuffled, "seed": 5, "epoch": 2, "repeat": 2}
    few = {"selected": list(range(2, 198, 3)), "global_batch": 60, "pool_batches": 2}
    yield base | few | {"shuffle": "exact", "seed": 6, "epoch": 0}


def window_cases():
    small = [[30, 7], [1, 16], [24, 8], [15, 5]]
    many = [[60, 2], [41, 3], [1, 1]]
    random = sequence(5)
    for shards, same in [(small, 9), (small, None), (many, 12), (many, None)]:
        n = sum(samples for samples, _ in shards)
        steps = [same if same else (next(random) * 14) >> 64 for _ in range(n)]
        for length, stride in [(4, 1), (5, 3), (9, 9)]:
            some = [list(range(11, 50, 3)), [9, 60, 9, 3, 61, 44]]
            for selected in [None, *some] if stride == 3 else [None]:
                base = {"shards": shards, "selected": selected, "repeat": 1, "window": 8, "lanes": 4}
                base |= {"steps": steps, "length": length, "stride": stride, "seed": 3, "epoch": 1}
                for shuffle in ["none", "exact", "windowed"]:
                    yield base | {"shuffle": shuffle}
        yield base | {"shuffle": "windowed", "repeat": 2, "window": 64, "lanes": 64}


def packed_cases():
    small = [[30, 7], [1, 16], [24, 8], [15, 5]]
    random = sequence(6)
    steps = [max(0, ((next(random) * 30) >> 64) - 4) for _ in range(70)]
    long = [200 if i % 30 == 7 else n for i, n in enumerate(steps)]
    for steps, selected in [(steps, None), (long, None), (steps, list(range(5, 60, 2))), (long, [7, 60, 9, 7, 3])]:
        for length, separator, pad in [(8, 0, False), (16, 1, True), (50, 1, False)]:
            base = {"shards": small, "selected": selected, "repeat": 1, "window": 8, "lanes": 4, "steps": steps}
            base |= {"length": length, "separator": separator, "pad": pad, "seed": 3, "epoch": 1, "windows": None}
            for shuffle in ["none", "exact", "windowed"]:
                yield base | {"shuffle": shuffle}


SETS = {"v1": cases, "windows": window_cases, "packed": packed_cases, "buckets": bucket_cases}


def main():
    lines = []
    for case in SETS[sys.argv[1]]():
        order = epoch(case)
        if "lengths" in case:
            order = bucketed(case, order)
        if "windows" in case:
            expected = list(range(len(case["windows"])))
        else:
            expected = [x for sample in samples_of(case) for x in windows_of(case, sample)]
        assert sorted(order) == sorted(expected * case["repeat"])
        lines.append(json.dumps(case | {"order": order}, separators=(",", ":")))
    text = "[\n" + ",\n".join(lines) + "\n]\n"
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
