"""Hypothesis strategies for every frame of the guest protocol."""

from hypothesis import strategies as st

from cakework.node.guest import protocol as p

u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
texts = st.lists(text, max_size=6).map(tuple)
octets = st.binary(max_size=60) | st.lists(st.sampled_from([0xFD, 0xFE, 0xFF, 0, 1])).map(bytes)
streams = st.sampled_from(["stdout", "stderr"])
states = st.sampled_from(["waiting", "running", "exited", "failed", "frozen"])
identities = st.builds(
    p.Identity,
    clock_ns=u64,
    seed=st.binary(min_size=p.SEED_SIZE, max_size=p.SEED_SIZE),
    hostname=text,
    dns=texts,
    vm_id=text,
    domain=text,
)

host_frames: st.SearchStrategy[p.HostFrame] = st.one_of(
    st.builds(p.HostHello, token=u64, acked=u64, version=u16),
    st.builds(p.Rehearse, argv=texts),
    st.builds(
        p.Run,
        identity=identities,
        argv=texts,
        env=texts,
        cwd=text,
        user=text,
        volume=st.booleans(),
        watch=st.booleans(),
        port=u16,
    ),
    st.builds(p.Ack, number=u64),
    st.builds(p.Signal, number=u32),
    st.builds(p.PowerOff, grace_ms=u32),
    st.builds(p.Ping, token=u64),
    st.builds(p.RunHook, timeout_ms=u32, argv=texts, port=u16, path=text),
    st.builds(p.Freeze),
    st.builds(p.Resume, identity=identities),
    st.builds(p.Mark, token=u64),
)

guest_frames: st.SearchStrategy[p.GuestFrame] = st.one_of(
    st.builds(p.GuestHello, token=u64, state=states, last=u64, build=text),
    st.builds(p.Started, pid=u32),
    st.builds(p.Failed, error=u32, what=text),
    st.builds(p.Line, number=u64, time_ns=u64, stream=streams, text=octets, goes_on=st.booleans()),
    st.builds(p.Exited, by_signal=st.booleans(), value=u32, out_of_memory=st.booleans(), last=u64),
    st.builds(p.Rehearsed),
    st.builds(p.Pong, token=u64),
    st.builds(p.Ready),
    st.builds(p.Hooked, end=st.sampled_from(["done", "signal", "timeout"]), value=u32),
    st.builds(p.Frozen, last=u64),
    st.builds(p.Resumed),
    st.builds(p.Marked, token=u64, last=u64),
)
