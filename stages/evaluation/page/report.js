// Videos play while they are in view, those of one row together; nothing here asks anything of a network.
"use strict";
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) entry.target.play().catch(() => {});
    else entry.target.pause();
  }
}, { rootMargin: "80px" });
for (const video of document.querySelectorAll("video")) seen.observe(video);

function together(videos) {
  for (const video of videos) {
    video.currentTime = 0;
    video.play().catch(() => {});
  }
}
for (const row of document.querySelectorAll(".sample .row")) {
  row.addEventListener("click", () => together(row.querySelectorAll("video")));
}
const again = document.getElementById("again");
if (again) again.addEventListener("click", () => together(document.querySelectorAll(".sample video")));
