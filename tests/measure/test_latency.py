from measure import link
from measure.latency import split_latency


def test_latency_sums_steps_encode_link_and_cloud():
    whole = split_latency(4, 3, 5.9, link.load("4g"), 512, 250, 1000)
    # 7 steps × 5.9 us = 41.3 us; 4,096 bits at 5.85 Mbit/s = 700.17 us
    assert f"{whole.edge_ms:.4f}" == "0.0413"
    assert f"{whole.link_ms:.4f}" == "0.7002"
    assert f"{whole.total_ms:.4f}" == "1.9915"
    assert whole.absent == ()


def test_latency_without_a_step_time_is_a_lower_bound():
    whole = split_latency(4, 3, None, link.load("4g"), 512)
    assert whole.absent == ("edge", "encode", "cloud")
    assert f"{whole.total_ms:.4f}" == "0.7002"
