"""The spill: a bounded queue on disk that survives the process, the link and a full disk."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import grpc
import numpy as np
import pytest

from lava_edge import spill as spills
from lava_edge.outbox import Outbox
from lava_edge.spill import Spill
from lava_edge.uplink import Patience, Uplink
from splitcore import packet
from splitcore import wire_pb2 as wire
from splitcore.errors import LinkError
from splitcore.packet import Packet
from tests.lava_edge import doomed_edge
from tests.link import QUICK, Relay, check_answers, cloud, collect, until
from tests.scripted import samples_in, scripted
from tests.tiny_bundle import make_bundle, random_code

DIGEST = bytes(32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def opened(tmp_path):
    """Opens spills in one folder, and closes them at the end."""
    made = []

    def open_one(digest=DIGEST, **options):
        for earlier in made:
            earlier._unlock()  # as the end of its process would
        made.append(Spill(tmp_path, digest, **options))
        return made[-1]

    yield open_one
    for spill in made:
        spill.close()


def one(sample, payload=b"payload"):
    return [Packet(sample, 0, 1, payload)]


def together(sample, more, payload=b"payload"):
    return [Packet(sample, 0, 1, payload, more)]


def taken(spill):
    found = []
    while (record := spill.take()) is not None:
        assert record.problem == ""
        found.append(record.packets)
    return found


def test_samples_come_out_in_the_order_they_went_in(opened, tmp_path):
    spill = opened()
    steps = [Packet(2, step, 1, bytes([step])) for step in (1, 2, 3)]
    for packets in (one(5), steps, together(7, 2), one(1)):
        assert spill.put(packets)
    assert taken(spill) == [one(5), steps, together(7, 2), one(1)]
    assert list(spill.unanswered) == [5, 2, 7, 8, 9, 1]


def test_answered_samples_free_their_segments(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(spills, "SEGMENT_BYTES", 200)
    spill = opened()
    for sample in range(20):
        spill.put(one(sample))
    assert len(list(tmp_path.iterdir())) > 2
    taken(spill)
    for sample in reversed(range(20)):
        spill.answered(range(sample, sample + 1))
    assert spill.bytes_used == len(spills.MAGIC) + len(DIGEST)  # of the one that is written
    spill.close()
    assert list(tmp_path.iterdir()) == []


def test_queue_that_is_answered_at_once_stays_small(opened, tmp_path):
    spill = opened(max_bytes=200)
    for sample in range(20):
        assert spill.put(one(sample), taken=True)
        spill.answered(range(sample, sample + 1))
    assert spill.put(one(20))
    assert taken(spill) == taken(opened()) == [one(20)]


def test_unanswered_samples_are_there_after_the_process_died(opened, tmp_path):
    first = opened()
    for sample in range(4):
        first.put(one(sample))
    first.take()
    second = opened()  # the first was never closed
    assert list(second.unanswered) == [0, 1, 2, 3]
    assert taken(second) == [one(k) for k in range(4)]


def test_answered_samples_are_not_there_again_after_the_process_died(opened, tmp_path):
    first = opened()
    for packets in (one(0), together(1, 2), one(4), one(5)):
        first.put(packets)
    taken(first)
    first.answered(range(1, 4))
    first.answered(range(4, 5))
    second = opened()  # the first was never closed
    assert list(second.unanswered) == [0, 5]
    assert taken(second) == [one(0), one(5)]
    second.answered(range(1))
    second.answered(range(5, 6))
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_there_twice_is_handed_out_once(opened, tmp_path):
    spill = opened()
    for sample in range(3):
        spill.put(one(sample))
    (path,) = tmp_path.iterdir()
    shutil.copy(path, path.with_name("00000009.spill"))
    again = opened()
    assert list(again.unanswered) == [0, 1, 2]
    assert taken(again) == [one(0), one(1), one(2)]


def test_file_that_cannot_be_emptied_or_removed_does_not_matter(opened, tmp_path, monkeypatch):
    spill = opened()
    spill.put(one(1))

    def refused(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "truncate", refused)
        patched.setattr(Path, "unlink", refused)
        spill.answered(range(1, 2))
        spill.close()
    assert list(spill.unanswered) == []
    assert len(list(tmp_path.iterdir())) == 1
    assert list(opened().unanswered) == []


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"else")])
def test_samples_whose_file_is_gone_are_lost_by_id(bundle, tmp_path, spoil):
    with Uplink("127.0.0.1:1", bundle, spill=tmp_path, group=2, max_pending=2) as uplink:
        for sample, code in enumerate(random_code(6)):
            uplink.send(sample, code)
    with cloud([bundle]) as server:
        uplink = Uplink(server.address, bundle, spill=tmp_path, patience=QUICK)
        (path,) = tmp_path.iterdir()
        spoil(path)
        with uplink:
            with pytest.raises(LinkError, match=r"spill: .*; lost 6 samples: .*[0-5]$"):
                list(uplink.answers())
            assert sorted(uplink.lost) == [0, 1, 2, 3, 4, 5]
            assert uplink.waiting == ()


def test_sending_while_much_waits_on_disk_costs_no_more(bundle, tmp_path):
    spill = Spill(tmp_path, DIGEST)
    outbox = Outbox(DIGEST, 4, 8, spill)
    for sample in range(20_000):
        spill.put(one(sample))
    outbox.refill()
    tracemalloc.start()
    with outbox.changed:
        outbox.check_new(20_000)
        outbox.begin(range(20_000, 20_001), [0.0])
        outbox.add(20_000, *one(20_000))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    spill.close()
    assert peak_bytes < 20_000  # nothing was copied that has an entry for each of them


def test_server_that_refuses_is_told_with_what_stays_on_disk(bundle, tmp_path):
    with Uplink("127.0.0.1:1", bundle, spill=tmp_path) as uplink:
        for sample, code in enumerate(random_code(3)):
            uplink.send(sample, code)
    assert uplink.waiting == (0, 1, 2)

    def refuses(received, context):
        next(received)
        yield packet.pack_welcome(64)
        next(received)  # all is handed out of the spill
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "another bundle now")

    with scripted(refuses) as address:
        with Uplink(address, bundle, spill=tmp_path, patience=QUICK) as uplink:
            with pytest.raises(LinkError, match="now; kept on disk 3 samples: 0, 1, 2"):
                list(uplink.answers())
            assert uplink.lost == ()
            assert uplink.waiting == (0, 1, 2)


@pytest.mark.parametrize("cut", range(1, 30))
def test_torn_end_is_cut_off_and_the_rest_kept(opened, tmp_path, cut):
    spill = opened()
    spill.put(one(1))
    spill.put(one(2))
    spill.close()
    (path,) = tmp_path.iterdir()
    os.truncate(path, path.stat().st_size - cut)
    again = opened()
    assert taken(again) == ([one(1)] if cut <= 30 else [])
    assert again.put(one(3))
    assert taken(again) == [one(3)]
    again.close()
    assert list(opened().unanswered) == [1, 3]


def damage(path, at, bits):
    raw = bytearray(path.read_bytes())
    raw[at] ^= bits
    path.write_bytes(raw)


def three_samples(spill):
    """Where the file is that holds samples 0, 1, 2, and where in it each record begins and ends."""
    for sample in range(3):
        spill.put(one(sample))
    spill.close()
    (path,) = spill.folder.iterdir()
    start = len(spills.MAGIC) + len(DIGEST)
    size, rest = divmod(path.stat().st_size - start, 3)
    assert rest == 0
    return path, [range(start + k * size, start + (k + 1) * size) for k in range(3)]


def taken_or_lost(spill):
    """Samples that come out whole, and those that are lost by number."""
    found, lost = [], []
    while (record := spill.take()) is not None:
        assert bool(record.packets) != bool(record.problem)
        if record.packets:
            found += record.packets
        else:
            lost += record.samples
    return found, lost


@pytest.mark.parametrize("hit", range(3))
@pytest.mark.parametrize("bit", range(8))
def test_changed_bit_costs_at_most_the_record_it_hits(opened, bit, hit):
    path, records = three_samples(opened())
    whole = path.read_bytes()
    others = [packet for k in range(3) if k != hit for packet in one(k)]
    for at in records[hit]:
        path.write_bytes(whole)
        damage(path, at, 1 << bit)
        spill = opened()
        found, lost = taken_or_lost(spill)
        untold = spill.take_damage()
        if at == records[hit].start:  # the mark
            assert (len(found), lost, untold) == (3, [], [])
        else:
            assert found == others
            assert lost == ([hit] if not untold else [])


@pytest.mark.parametrize("hit", range(3))
def test_file_with_a_head_that_cannot_be_read_is_told_and_kept(opened, tmp_path, hit):
    path, records = three_samples(opened())
    damage(path, records[hit].start + 8, 1)
    whole = path.read_bytes()
    spill = opened()
    assert path.exists()  # what can be read of it waits
    (told,) = spill.take_damage()
    assert "00000001.spill: part of it cannot be read" in told
    assert "kept, as 00000001.damaged" in told
    taken(spill)
    for sample in {0, 1, 2} - {hit}:
        spill.answered(range(sample, sample + 1))
    (kept,) = tmp_path.iterdir()
    assert kept.name == "00000001.damaged"
    begin, end = records[hit].start, records[hit].stop
    assert kept.read_bytes()[begin:end] == whole[begin:end]
    again = opened()
    assert again.take_damage() == []
    again.put(one(7))
    assert {path.name for path in tmp_path.iterdir()} == {"00000001.damaged", "00000002.spill"}


def test_file_without_any_head_that_can_be_read_is_told_and_kept(opened, tmp_path):
    spill = opened()
    spill.put(one(0))
    spill.close()
    (path,) = tmp_path.iterdir()
    damage(path, len(spills.MAGIC) + len(DIGEST) + 8, 1)
    whole = path.read_bytes()
    spill = opened()
    assert spill.take() is None
    assert len(spill.take_damage()) == 1
    assert [kept.name for kept in tmp_path.iterdir()] == ["00000001.damaged"]
    assert path.with_suffix(".damaged").read_bytes() == whole


@pytest.mark.parametrize("hit", range(3))
def test_run_that_finds_a_damaged_file_delivers_the_rest_and_says_so(bundle, tmp_path, hit):
    codes = random_code(3)
    with Uplink("127.0.0.1:1", bundle, spill=tmp_path) as uplink:
        for sample, code in enumerate(codes):
            uplink.send(sample, code)
    (path,) = tmp_path.iterdir()
    raw = path.read_bytes()
    heads = [found.start() for found in re.finditer(re.escape(spills.SYNC), raw)]
    damage(path, heads[hit], 1)
    answers = {}
    with cloud([bundle]) as server, Uplink(server.address, bundle, spill=tmp_path) as uplink:
        with pytest.raises(LinkError, match=r"00000001\.spill: part of it cannot be read"):
            answers.update((a.sample, a.label) for a in uplink.answers())
        assert list(uplink.answers()) == []  # it is told once
    assert set(answers) == {0, 1, 2} - {hit}
    assert [kept.name for kept in tmp_path.iterdir()] == ["00000001.damaged"]


def test_folder_in_use_is_refused_until_it_is_closed(bundle, tmp_path):
    first = Spill(tmp_path, DIGEST)
    with pytest.raises(LinkError, match="is in use by another edge"):
        Spill(tmp_path, DIGEST)
    first.close()
    Spill(tmp_path, DIGEST).close()


def test_copy_that_somebody_made_of_a_file_is_left_alone(opened, tmp_path):
    spill = opened()
    assert spill.put(one(0))
    spill.close()
    (number,) = tmp_path.glob("*.spill")
    copy = number.with_name("backup.spill")
    copy.write_bytes(number.read_bytes())
    again = opened()
    assert list(again.unanswered) == [0]
    assert again.put(one(1))
    assert copy.exists()


def test_file_of_another_bundle_is_refused(opened, tmp_path):
    spill = opened()
    spill.put(one(1))
    with pytest.raises(LinkError, match="another bundle"):
        opened(b"x" * 32)


def test_queue_never_grows_beyond_its_bound(opened, tmp_path):
    spill = opened(max_bytes=1000)
    kept = [sample for sample in range(100) if spill.put(one(sample))]
    assert 0 < len(kept) < 100
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1000
    assert taken(spill) == [one(sample) for sample in kept]


def test_samples_wait_on_disk_while_the_link_is_down(bundle, tmp_path):
    codes = random_code(100)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        relay.down = True
        link = Uplink(relay.address, bundle, spill=tmp_path, max_pending=8, patience=QUICK)
        with link as uplink:
            for sample, code in enumerate(codes):
                uplink.send(sample, code)  # never waits
            assert set(uplink.waiting) == set(range(100))
            assert list(tmp_path.iterdir())
            relay.down = False
            check_answers({a.sample: a.label for a in uplink.answers()}, codes)
        assert list(tmp_path.iterdir()) == []


def test_samples_of_an_earlier_run_are_delivered_by_the_next(bundle, tmp_path):
    codes = random_code(50)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        relay.down = True
        with Uplink(relay.address, bundle, spill=tmp_path, max_pending=8) as uplink:
            for sample, code in enumerate(codes):
                uplink.send(sample, code)
        assert uplink.lost == ()
        relay.down = False
        with Uplink(relay.address, bundle, spill=tmp_path) as uplink:
            check_answers({a.sample: a.label for a in uplink.answers()}, codes)


def test_groups_go_to_disk_and_come_back_whole(bundle, tmp_path):
    codes = random_code(50)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        relay.down = True
        with Uplink(relay.address, bundle, spill=tmp_path, max_pending=8, group=4) as uplink:
            for sample, code in enumerate(codes):
                uplink.send(sample, code)
            assert sorted(uplink.waiting) == list(range(50))
        assert uplink.lost == ()  # not even the two whose group was never full
        relay.down = False
        with Uplink(relay.address, bundle, spill=tmp_path) as uplink:
            check_answers({a.sample: a.label for a in uplink.answers()}, codes)
        assert list(tmp_path.iterdir()) == []


def test_outage_with_a_spill_loses_nothing_but_is_told(bundle, tmp_path):
    codes = random_code(12)
    patience = Patience(connect_s=5, stall_s=1, outage_s=0.5)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        relay.down = True
        link = Uplink(relay.address, bundle, spill=tmp_path, max_pending=4, patience=patience)
        with link as uplink:
            for sample, code in enumerate(codes):
                uplink.send(sample, code)
            with pytest.raises(LinkError, match=r"unanswered and kept in .*12 samples: 0, 1, 2"):
                list(uplink.answers())
            relay.down = False
            answers = {}
            while len(answers) < len(codes):
                try:
                    answers.update({a.sample: a.label for a in uplink.answers()})
                except LinkError:
                    continue
            check_answers(answers, codes)
            assert uplink.lost == ()


def test_full_disk_reports_what_it_could_not_keep_by_id(bundle, tmp_path, monkeypatch):
    codes = random_code(30)

    class FullDisk:
        def __init__(self, file):
            self._file, self._left = file, 250

        def write(self, raw):
            part = raw[: self._left]
            self._left -= len(part)
            written = self._file.write(part)
            if written < len(raw):
                raise OSError(errno.ENOSPC, "No space left on device")
            return written

        def __getattr__(self, name):
            return getattr(self._file, name)

    real = Spill._writable

    def writable(self):
        segment = real(self)
        if not isinstance(self._writer, FullDisk):
            self._writer = FullDisk(self._writer)
        return segment

    monkeypatch.setattr(Spill, "_writable", writable)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        relay.down = True
        link = Uplink(relay.address, bundle, spill=tmp_path, max_pending=4, patience=QUICK)
        with link as uplink:
            for sample, code in enumerate(codes):
                uplink.send(sample, code)
            lost = set(uplink.lost)
            assert 0 < len(lost) < len(codes)
            relay.down = False
            answers = {}
            with pytest.raises(LinkError, match="no room in the spill; lost"):
                answers.update((a.sample, a.label) for a in uplink.answers())
            assert set(uplink.lost) == lost
            assert set(answers) | lost == set(range(len(codes)))
            assert not set(answers) & lost


def test_steps_of_a_sample_go_to_disk_as_one(bundle, tmp_path):
    codes = random_code(10)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        relay.down = True
        link = Uplink(relay.address, bundle, spill=tmp_path, max_pending=2, patience=QUICK)
        with link as uplink:
            for step in range(4):
                for sample, code in enumerate(codes):
                    uplink.send_step(sample, step + 1, code[step])
            relay.down = False
            check_answers({a.sample: a.label for a in uplink.answers()}, codes)


def test_healthy_link_leaves_nothing_on_disk(bundle, tmp_path):
    codes = random_code(20)
    with cloud([bundle]) as server:
        with Uplink(server.address, bundle, spill=tmp_path) as uplink:
            check_answers(collect(uplink, np.asarray(codes)), codes)
        assert list(tmp_path.iterdir()) == []


def test_healthy_link_reads_nothing_from_disk(bundle, tmp_path, monkeypatch):
    codes = random_code(20)
    monkeypatch.setattr(spills, "_packets", lambda *_: pytest.fail("read"))
    with cloud([bundle]) as server, Uplink(server.address, bundle, spill=tmp_path) as uplink:
        check_answers(collect(uplink, np.asarray(codes)), codes)


def test_spill_without_room_loses_nothing_that_memory_holds(bundle, tmp_path, caplog):
    codes = random_code(20)
    options = {"spill": tmp_path, "spill_bytes": 0, "patience": QUICK}
    with cloud([bundle]) as server, Uplink(server.address, bundle, **options) as uplink:
        server.model.stalled = True
        for sample, code in enumerate(codes):
            uplink.send(sample, code)
        server.model.stalled = False
        check_answers({a.sample: a.label for a in uplink.answers()}, codes)
        assert uplink.lost == ()
    assert caplog.text.count("no room") == 1


def test_outage_names_apart_what_is_in_memory_alone(bundle, tmp_path):
    codes = random_code(3)
    options = {"spill": tmp_path, "spill_bytes": 150, "patience": Patience(outage_s=0.2)}
    with Uplink("127.0.0.1:1", bundle, **options) as uplink:
        for sample, code in enumerate(codes):
            uplink.send(sample, code)
        with pytest.raises(LinkError, match=r"kept in .*: sample 0; .*memory alone: 2 .*: 1, 2"):
            list(uplink.answers())
    assert uplink.lost == (1, 2)
    assert uplink.waiting == (0,)


def silent(received, context):
    next(received)
    yield packet.pack_welcome(64)
    for _ in received:
        pass


def killed_edge(bundle, server, folder, group, how):
    """Run an edge until it has sent everything, and kill it."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.lava_edge.doomed_edge"),
            *(str(bundle.path), server, str(folder), str(group)),
        ],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "sent\n"
        process.send_signal(how)
        process.wait()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(("away", "group"), [(True, 1), (True, 4), (False, 1), (False, 4)])
def test_run_after_one_that_was_killed_delivers_all_it_had_sent(bundle, tmp_path, away, group, how):
    if away:
        killed_edge(bundle, "127.0.0.1:1", tmp_path, group, how)
    else:
        with scripted(silent) as address:
            killed_edge(bundle, address, tmp_path, group, how)
    with cloud([bundle]) as server, Uplink(server.address, bundle, spill=tmp_path) as uplink:
        answers = {a.sample: a.label for a in uplink.answers()}
        check_answers(answers, random_code(doomed_edge.SAMPLES))
        assert uplink.lost == ()


def test_answered_samples_are_marked_while_others_wait(bundle, tmp_path):
    def answers_some(received, context):
        next(received)
        yield packet.pack_welcome(64)
        for raw in received:
            yield packet.pack_replies([wire.Answer(sample=k) for k in samples_in(raw) if k % 2])

    folder, then = tmp_path / "spill", tmp_path / "then"
    with scripted(answers_some) as address:
        with Uplink(address, bundle, spill=folder, max_pending=8) as uplink:
            for sample, code in enumerate(random_code(12)):
                uplink.send(sample, code)
            until(lambda: uplink.waiting == (0, 2, 4, 6, 8, 10))
            shutil.copytree(folder, then)  # what a kill would leave
        spill = Spill(then, bytes.fromhex(bundle.digest))
        assert list(spill.unanswered) == [0, 2, 4, 6, 8, 10]
        spill.close()
