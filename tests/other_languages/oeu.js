// OEU's operations in plain JavaScript, answering the test vectors:  node oeu.js VECTORS_DIR ANSWERS_DIR
// An example of how an implementation in another language is judged by `python -m oeu_ref check-vectors ANSWERS_DIR`.
"use strict";
const fs = require("fs");
const path = require("path");

// ---- the mathematics, on flat arrays of numbers -------------------------------------------------------------------

function logProbabilities(row) {
  const top = Math.max(...row);
  const logTotal = Math.log(row.reduce((total, z) => total + Math.exp(z - top), 0));
  return row.map((z) => z - top - logTotal);
}

function entropy(row) {
  return -logProbabilities(row).reduce((total, logP) => total + Math.exp(logP) * logP, 0);
}

function entropyLoss(rows) {
  const grad = rows.flatMap((row) => {
    const h = entropy(row);
    return logProbabilities(row).map((logP) => (Math.exp(logP) * (logP + h)) / rows.length);
  });
  return [-rows.reduce((total, row) => total + entropy(row), 0) / rows.length, grad];
}

function roundHalfToEven(v) {
  const floor = Math.floor(v);
  if (v - floor !== 0.5) return Math.round(v);
  return floor % 2 === 0 ? floor : floor + 1;
}

function fakeQuantize(x, step, qMin, qMax) {
  return x.map((value) => step * roundHalfToEven(Math.min(Math.max(value / step, qMin), qMax)));
}

function fakeQuantizeBackward(gradOut, x, step, qMin, qMax, gradScale, mask) {
  let gradStep = 0;
  const gradX = x.map((value, i) => {
    const v = value / step;
    const tested = mask === "clip" ? v : roundHalfToEven(v);
    const inside = qMin <= tested && tested <= qMax;
    gradStep += gradOut[i] * (inside ? roundHalfToEven(v) - v : tested < qMin ? qMin : qMax);
    return inside ? gradOut[i] : 0;
  });
  return [gradX, gradScale * gradStep];
}

const dot = (a, b) => a.reduce((total, value, i) => total + value * b[i], 0);
const norm = (a) => Math.hypot(...a);

function projectVector(gF, gR, alpha, rescale) {
  const normF = norm(gF);
  const normR = norm(gR);
  if (normF === 0 || normR === 0) return gF.slice();
  const axis = gR.map((value) => value / normR);
  const along = dot(gF, axis);
  let gPerp = gF.map((value, i) => value - alpha * along * axis[i]);
  const left = dot(gPerp, axis) - (1 - alpha) * along; // second pass: for nearly parallel gradients
  gPerp = gPerp.map((value, i) => value - left * axis[i]);
  const normPerp = norm(gPerp);
  if (normPerp <= 1e-12 * normF) return gPerp.map(() => 0);
  return rescale === "match" ? gPerp.map((value) => (value * normF) / normPerp) : gPerp;
}

function project(forget, retain, alpha, granularity, rescale) {
  if (granularity === "layer") return forget.map((gF, i) => projectVector(gF, retain[i], alpha, rescale));
  const whole = projectVector(forget.flat(), retain.flat(), alpha, rescale);
  return forget.map((gF) => whole.splice(0, gF.length));
}

// ---- from and to the files ----------------------------------------------------------------------------------------

const numbers = (array) => array.data.map(Number);
const array = (shape, data) => ({ shape, data: data.map(String) }); // String round-trips a double in JavaScript

function rowsOf(logits) {
  const [n, k] = logits.shape;
  const values = numbers(logits);
  return Array.from({ length: n }, (_, i) => values.slice(i * k, (i + 1) * k));
}

function backward(input, mask) {
  const [gradX, gradStep] = fakeQuantizeBackward(
    numbers(input.grad_out), numbers(input.x), Number(input.step), input.q_min, input.q_max, Number(input.grad_scale), mask
  );
  return { grad_x: array(input.x.shape, gradX), grad_step: String(gradStep) };
}

function projected(input) {
  const [forget, retain] = [input.forget_grads.map(numbers), input.retain_grads.map(numbers)];
  return project(forget, retain, Number(input.alpha), input.granularity, input.rescale);
}

const operations = {
  entropy_loss(input) {
    const [loss, grad] = entropyLoss(rowsOf(input.logits));
    return { loss: String(loss), grad: array(input.logits.shape, grad) };
  },
  kl_to_uniform(input) {
    const rows = rowsOf(input.logits);
    return { kl: array([rows.length], rows.map((row) => Math.log(row.length) - entropy(row))) };
  },
  fake_quantize(input) {
    const codes = fakeQuantize(numbers(input.x), Number(input.step), input.q_min, input.q_max);
    return { x_hat: array(input.x.shape, codes) };
  },
  fake_quantize_backward_clip: (input) => backward(input, "clip"),
  fake_quantize_backward_round: (input) => backward(input, "round"),
  project(input) {
    return { result: projected(input).map((g, i) => array(input.forget_grads[i].shape, g)) };
  },
  oeu_direction(input) {
    const sum = projected(input).map((g, i) => {
      const gR = numbers(input.retain_grads[i]);
      return array(input.forget_grads[i].shape, g.map((value, j) => gR[j] + Number(input.beta) * value));
    });
    return { result: sum };
  },
};

const [vectorsDir, answersDir] = process.argv.slice(2);
fs.mkdirSync(answersDir, { recursive: true });
for (const [operation, compute] of Object.entries(operations)) {
  const { cases } = JSON.parse(fs.readFileSync(path.join(vectorsDir, `${operation}.json`), "utf8"));
  const results = Object.fromEntries(cases.map(({ name, inputs }) => [name, compute(inputs)]));
  fs.writeFileSync(path.join(answersDir, `${operation}.json`), JSON.stringify({ operation, dtype: "float64", results }));
}
