/** The chart of the MNIST study as SVG: test error over temperature, one line per student, the teacher as a dashed line. */
import { lineChart } from "../line-chart.mjs";

const TICKS = [0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20];

/** Errors on a logarithmic scale; columns: labels alone, then the temperatures in order. */
export function mnistChart(students, teacher) {
  const temperatures = students[0].points.map(({ temperature }) => temperature);
  const errors = [teacher, ...students.flatMap(({ points }) => points.map(({ error }) => error))].map((error) => 100 * error);
  const [low, high] = [Math.min(...errors) * 0.85, Math.max(...errors) * 1.15];
  return lineChart({
    about: "Test error of the students by temperature",
    x: {
      label: "what the student learns from",
      low: -0.3,
      high: temperatures.length - 0.7,
      ticks: temperatures.map((temperature, i) => [i, temperature === null ? "labels alone" : `T = ${temperature}`]),
    },
    y: {
      label: "test error",
      low,
      high,
      log: true,
      ticks: TICKS.filter((tick) => tick > low && tick < high).map((tick) => [tick, `${tick} %`]),
    },
    series: students.map(({ network, points }) => ({
      name: network,
      points: points.map(({ error, deviation }, i) => [i, 100 * error, 100 * deviation]),
    })),
    lines: [{ name: "teacher", y: 100 * teacher }],
  });
}
