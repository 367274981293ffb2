"""What programs cost, against programs whose cost is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpicl_jax.bench.counts import product_flops, program_cost, shape_bytes
from gpicl_jax.bench.step import work_by_hand
from gpicl_jax.build import make_tasks
from gpicl_jax.config import load_config
from gpicl_jax.hyper import hyper_from
from gpicl_jax.tasks import Episode
from gpicl_jax.training.program import make_program
from gpicl_jax.training.step import num_params
from tests.helpers import tiny_config


def compiled_text(function, *given):
    return jax.jit(function).lower(*given).compile().as_text()


def test_products_of_a_training_step_are_those_counted_by_hand():
    """The model is the paper's Transformer. The projection of the images is drawn outside of this gradient."""
    config = load_config("bench/step")
    learner, key = make_program(config).learner, jax.random.key(0)
    params = jax.eval_shape(learner.init, key)
    batch, length, features = config.tasks.tasks_per_step, config.tasks.length, config.data.num_features
    episode = jnp.zeros((batch, length, features)), jnp.zeros((batch, length), jnp.int32)

    def loss(params, x_BLX, y_BL):
        of_one = lambda x_LX, y_L: learner.loss(params, Episode(x_LX, y_L, jnp.int32(length)), key=key)[0]  # noqa: E731
        return jax.vmap(of_one)(x_BLX, y_BL).mean()

    counted = product_flops(jax.make_jaxpr(jax.grad(loss))(params, *episode), "cpu")
    by_hand, _ = work_by_hand(config, num_params(params))
    projection = 2 * batch * length * features**2
    assert counted == pytest.approx(by_hand - projection, rel=1e-6)


def test_a_scan_counts_as_often_as_it_runs_and_of_platforms_the_one_asked_for():
    square = jnp.ones((8, 8))
    once = product_flops(jax.make_jaxpr(lambda x: x @ x)(square), "cpu")
    assert once == 2 * 8**3

    def nested(x):
        return jax.lax.scan(lambda x, _: (jax.lax.fori_loop(0, 3, lambda _, x: x @ x, x), None), x, length=5)[0]

    assert product_flops(jax.make_jaxpr(nested)(square), "cpu") == 15 * once
    chosen = jax.make_jaxpr(lambda x: jax.lax.platform_dependent(x, cpu=lambda x: x, default=lambda x: x @ x @ x))(square)
    assert product_flops(chosen, "cpu") == 0 and product_flops(chosen, "gpu") == 2 * once
    convolved = jax.make_jaxpr(lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "VALID"))
    assert product_flops(convolved(jnp.ones((2, 3, 6, 6)), jnp.ones((4, 3, 5, 5))), "cpu") == 2 * 2 * 4 * 2 * 2 * 3 * 5 * 5


def test_a_loop_moves_its_bytes_as_often_as_it_runs():
    def times(number):
        return program_cost(compiled_text(lambda x: jax.lax.fori_loop(0, number, lambda _, x: jnp.sin(x @ x), x), square))

    square = jnp.ones((64, 64))
    two, twelve = times(2), times(12)
    assert twelve.loops == 1 and two.loops <= 1
    a_turn = (twelve.bytes_moved - two.bytes_moved) / 10
    assert 4 * 64 * 64 * 4 <= a_turn <= 6 * 64 * 64 * 4  # the product reads and writes a matrix, and so does the sine
    assert twelve.kernels > two.kernels


def test_of_an_array_that_is_sliced_and_filled_row_by_row_the_rows_move():
    rows_LX = jnp.ones((1000, 256))
    sums = lambda rows_LX: jax.lax.scan(lambda sums_X, row_X: (sums_X + row_X, sums_X), rows_LX[0], rows_LX)[1]  # noqa: E731
    text = compiled_text(sums, rows_LX)
    assert program_cost(text).bytes_moved < 10 * rows_LX.nbytes  # 1,000 times that if each turn moved all of it


def test_shapes_in_a_tpus_vector_memory_move_nothing():
    assert shape_bytes("(f32[4,8]{1,0:T(8,128)}, f32[4,8]{1,0:T(8,128)S(1)}, u8[3]{0}, pred[])") == 128 + 3 + 1


def test_an_all_reduce_counts_what_each_device_sends():
    devices = jax.devices()[:2]
    if len(devices) < 2:
        pytest.skip("one device")
    summed = jax.pmap(lambda x: jax.lax.psum(x, "i"), axis_name="i", devices=devices)
    cost = program_cost(summed.lower(np.ones((2, 100), np.float32)).compile().as_text())
    assert cost.collectives["all-reduce"] == 1 and cost.reduced == 400


def test_a_chunk_of_more_steps_costs_more_steps():
    costs = {}
    for chunk in (2, 10):
        config = tiny_config(f"--train.chunk={chunk}")
        program = make_program(config)
        tasks, hyper = make_tasks(config, "train"), hyper_from(config)
        given = jax.eval_shape(program.init, hyper), tasks, hyper
        run = jax.jit(lambda *given, program=program: program.chunk(*given, gradient=program.gradient))
        costs[chunk] = program_cost(run.lower(*given).compile().as_text()).bytes_moved
    assert costs[10] == pytest.approx(5 * costs[2], rel=0.05)


HLO = """
%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (stack: f32[100,8,4], index: s32[]) -> f32[8,4] {
  %stack = f32[100,8,4]{2,1,0} parameter(0)
  %flat = f32[100,32]{1,0} bitcast(%stack)
  %index = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = f32[1,32]{1,0} dynamic-slice(%flat, %index, %zero), dynamic_slice_sizes={1,32}
  ROOT %row = f32[8,4]{1,0} bitcast(%slice)
}

%body (given: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %given = (s32[], f32[8,4]{1,0}) parameter(0)
  %turn = s32[] get-tuple-element(%given), index=0
  %rows = f32[8,4]{1,0:T(8,128)} get-tuple-element(%given), index=1
  %sine = f32[8,4]{1,0:T(8,128)} sine(%rows)
  ROOT %next = (s32[], f32[8,4]{1,0}) tuple(%turn, %sine)
}

%counted (given: (s32[], f32[8,4])) -> pred[] {
  %given = (s32[], f32[8,4]{1,0}) parameter(0)
  %turn = s32[] get-tuple-element(%given), index=0
  %last = s32[]{:T(128)} constant(7)
  ROOT %less = pred[]{:T(512)} compare(%turn, %last), direction=LT
}

%unknown (given: (s32[], f32[8,4])) -> pred[] {
  %given = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %asked = pred[] custom-call(%given), custom_call_target="ask"
}

ENTRY %main (stack: f32[100,8,4], start: (s32[], f32[8,4])) -> f32[8,4] {
  %stack = f32[100,8,4]{2,1,0} parameter(0)
  %start = (s32[], f32[8,4]{1,0}) parameter(1)
  %index = s32[] get-tuple-element(%start), index=0
  ENTRY_LINE
}
"""


@pytest.mark.parametrize(
    ("line", "moved", "others"),
    [
        (
            "%x = (s32[], f32[8,4]{1,0:T(8,128)}) while(%start), condition=%counted, body=%body",
            7 * 256,
            {"loops": 1, "once": 0},
        ),
        ("%x = (s32[], f32[8,4]{1,0}) while(%start), condition=%unknown, body=%body", 256, {"loops": 1, "once": 1}),
        (
            "%x = (s32[], f32[8,4]{1,0}) while(%start), condition=%unknown, body=%body, "
            'backend_config={"known_trip_count":{"n":"5"}}',
            5 * 256,
            {"once": 0},
        ),
        ("%x = f32[8,4]{1,0} fusion(%stack, %index), kind=kLoop, calls=%fused", 128 + 4 + 128, {"kernels": 1}),
        (
            "%y = f32[8,4]{1,0:S(1)} copy-done(%stack)\n  %x = f32[8,4]{1,0:S(1)} all-reduce(%y), to_apply=%add",
            0,
            {"reduced": 128},
        ),
        (
            "%x = (f32[100,8,4]{2,1,0}, f32[100,8,4]{2,1,0}) all-reduce-start(%stack), to_apply=%add",
            2 * 12800,
            {"reduced": 12800},
        ),
        ("%x = f32[100,8,4]{2,1,0} all-gather(%stack)", 2 * 12800, {"reduced": 0}),
        ("%x = (f32[8,4]{1,0:S(1)}, f32[100,8,4]{2,1,0}, u32[]) copy-start(%stack)", 12800 + 4, {"kernels": 1}),
        (
            '%x = (f32[8,4]{1,0}, s8[4096]{0}) custom-call(%stack), custom_call_target="__cublas$gemm"',
            12800 + 128,
            {"kernels": 1},
        ),
        (
            "%x = f32[8,4]{1,0} conditional(%index, %start, %start), branch_computations={%body, %counted}",
            256,
            {"kernels": 1},
        ),
        ("%x = ((f32[100,8,4]), f32[8,4], u32[]) async-start(%stack, %index), calls=%fused", 256, {}),
    ],
)
def test_the_text_of_programs_for_gpus_and_tpus(line, moved, others):
    cost = program_cost(HLO.replace("ENTRY_LINE", line))
    assert cost.bytes_moved == moved
    for name, value in others.items():
        assert getattr(cost, name) == value, name
